package spire

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// Bundle returns the region's X.509 roots as the server sees them. They are as
// good as the channel: the caller decides whether they may add to what it knew.
func (c *Client) Bundle(ctx context.Context) (*x509bundle.Bundle, error) {
	b, err := c.TrustBundle(ctx)
	if err != nil {
		return nil, err
	}
	return b.X509Bundle(), nil
}

// TrustBundle is Bundle with JWT keys, sequence number and refresh hint. A
// tainted authority is in it: what it signed verifies until it is retired.
func (c *Client) TrustBundle(ctx context.Context) (*spiffebundle.Bundle, error) {
	b, _, err := c.Authorities(ctx)
	return b, err
}

// Authorities is TrustBundle with the roots that are tainted: who holds an SVID that
// one of them signed should have it renewed at once.
func (c *Client) Authorities(ctx context.Context) (b *spiffebundle.Bundle, tainted []*x509.Certificate, err error) {
	m, err := bundlev1.NewBundleClient(c.conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return nil, nil, c.conn.explain(err)
	}
	if b, err = parseBundle(m, c.conn.cfg.TrustDomain); err != nil {
		return nil, nil, err
	}
	for _, a := range m.GetX509Authorities() {
		if cert, err := x509.ParseCertificate(a.GetAsn1()); err == nil && a.GetTainted() {
			tainted = append(tainted, cert)
		}
	}
	return b, tainted, nil
}

// FederatedBundle returns what the server believes of another trust domain.
func (c *Client) FederatedBundle(ctx context.Context, td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	m, err := bundlev1.NewBundleClient(c.conn).GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: td.Name()})
	if err != nil {
		return nil, c.conn.explain(err)
	}
	return parseBundle(m, td)
}

func parseBundle(m *types.Bundle, want spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(m.GetTrustDomain())
	if err != nil || td != want {
		return nil, fmt.Errorf("%w: bundle of %q, not %s", ErrAnswer, m.GetTrustDomain(), want)
	}
	b := spiffebundle.New(td)
	for _, a := range m.GetX509Authorities() {
		certs, err := x509.ParseCertificates(a.GetAsn1())
		if err != nil {
			return nil, fmt.Errorf("%w: bundle: %w", ErrAnswer, err)
		}
		for _, cert := range certs {
			b.AddX509Authority(cert)
		}
	}
	for _, k := range m.GetJwtAuthorities() {
		key, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
		if err != nil {
			return nil, fmt.Errorf("%w: bundle: JWT key %q: %w", ErrAnswer, k.GetKeyId(), err)
		}
		if err := b.AddJWTAuthority(k.GetKeyId(), key); err != nil {
			return nil, fmt.Errorf("%w: bundle: %w", ErrAnswer, err)
		}
	}
	b.SetSequenceNumber(m.GetSequenceNumber())
	b.SetRefreshHint(time.Duration(m.GetRefreshHint()) * time.Second)
	return b, nil
}

// NewJWTSVID asks for a JWT-SVID of an entry for one or more audiences. The
// token it holds is a secret. Its signature is not checked: it came over a
// channel to the issuer itself.
func (c *Client) NewJWTSVID(ctx context.Context, entryID string, id spiffeid.ID, audience []string) (*jwtsvid.SVID, error) {
	resp, err := svidv1.NewSVIDClient(c.conn).NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{EntryId: entryID, Audience: audience})
	if err != nil {
		return nil, c.conn.explain(err)
	}
	svid, err := jwtsvid.ParseInsecure(resp.GetSvid().GetToken(), audience)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: JWT-SVID: %w", ErrAnswer, err)
	case svid.ID != id:
		return nil, fmt.Errorf("%w: JWT-SVID is for %s, not %s", ErrAnswer, svid.ID, id)
	}
	svid.Hint = resp.GetSvid().GetHint()
	return svid, nil
}
