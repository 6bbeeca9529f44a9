package spire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// NewDownstreamCA asks for a subordinate authority: the key of csr, which names the
// trust domain, certified. It returns the chain without the anchor, and the
// anchors. The client must show an SVID of a downstream entry.
func (c *Client) NewDownstreamCA(ctx context.Context, csr []byte, life time.Duration) (chain, anchors []*x509.Certificate, err error) {
	resp, err := svidv1.NewSVIDClient(c.conn).NewDownstreamX509CA(ctx, &svidv1.NewDownstreamX509CARequest{Csr: csr, PreferredTtl: int32(life / time.Second)})
	if err != nil {
		return nil, nil, c.conn.explain(err)
	}
	if chain, err = parseCerts(resp.GetCaCertChain()); err != nil {
		return nil, nil, err
	}
	anchors, err = parseCerts(resp.GetX509Authorities())
	if len(chain) == 0 {
		err = errors.Join(err, fmt.Errorf("%w: no authority certificate", ErrAnswer))
	}
	return chain, anchors, err
}

func parseCerts(all [][]byte) (out []*x509.Certificate, err error) {
	for _, der := range all {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// PublishJWT puts a JWT key into the server's bundle. The client must show an SVID
// of a downstream entry.
func (c *Client) PublishJWT(ctx context.Context, keyID string, key crypto.PublicKey, notAfter time.Time) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	_, err = bundlev1.NewBundleClient(c.conn).PublishJWTAuthority(ctx, &bundlev1.PublishJWTAuthorityRequest{
		JwtAuthority: &types.JWTKey{PublicKey: der, KeyId: keyID, ExpiresAt: notAfter.Unix()},
	})
	return c.conn.explain(err)
}

// Upstream is a SPIRE server whose subordinate our issuer is: it keeps the SVID of
// a downstream entry fresh and asks with it. Its methods may be called
// concurrently; they queue.
type Upstream struct {
	cfg    Config
	by     Attester
	agents crypto.Signer // key of the agent SVID

	mu      sync.Mutex // held during a call
	bundles *x509bundle.Set
	agent   Agent
	down    *Client
}

// NewUpstream returns an Upstream that attests as by with key when first used.
// cfg.Bundles must know the server's trust domain now; from then on its bundle is
// followed. Evidence that works once, as a join token does, is enough while the
// process runs: what cannot attest again renews.
func NewUpstream(cfg Config, by Attester, key crypto.Signer) (*Upstream, error) {
	first, err := cfg.Bundles.GetX509BundleForTrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	u := &Upstream{cfg: cfg, by: by, agents: key, bundles: x509bundle.NewSet(first.Clone())}
	u.cfg.Bundles = u.bundles
	return u, nil
}

// Close ends the connection.
func (u *Upstream) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down == nil {
		return nil
	}
	return u.down.Close()
}

// NewCA has the server certify the key of csr as an authority.
func (u *Upstream) NewCA(ctx context.Context, csr []byte, life time.Duration) (chain []*x509.Certificate, err error) {
	err = u.use(ctx, func(c *Client) error {
		chain, _, err = c.NewDownstreamCA(ctx, csr, life)
		return err
	})
	return chain, err
}

// PublishJWT puts a JWT key into the server's bundle.
func (u *Upstream) PublishJWT(ctx context.Context, keyID string, key crypto.PublicKey, notAfter time.Time) error {
	return u.use(ctx, func(c *Client) error { return c.PublishJWT(ctx, keyID, key, notAfter) })
}

// Bundle returns the server's bundle, and believes it from now on.
func (u *Upstream) Bundle(ctx context.Context) (b *spiffebundle.Bundle, err error) {
	err = u.use(ctx, func(c *Client) error {
		b, err = c.TrustBundle(ctx)
		return err
	})
	if err == nil {
		u.bundles.Add(b.X509Bundle())
	}
	return b, err
}

// use runs call with a client that shows the downstream SVID. If the server does
// not take it any more, it is fetched again, once.
func (u *Upstream) use(ctx context.Context, call func(*Client) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for again := range 2 {
		if u.down == nil || pastHalf(u.down.svid) {
			if err := u.connect(ctx); err != nil {
				return err
			}
		}
		err := call(u.down)
		if again == 1 || !errors.Is(err, ErrMustAttest) {
			return err
		}
		u.agent = Agent{}
		err = errors.Join(u.down.Close())
		u.down = nil
		if err != nil {
			return err
		}
	}
	return nil
}

// connect gets an agent SVID, then that of the downstream entry.
func (u *Upstream) connect(ctx context.Context) error {
	if err := u.attest(ctx); err != nil {
		return err
	}
	c, err := Dial(u.cfg, u.agent.SVID)
	if err != nil {
		return err
	}
	defer c.Close()
	entries, err := c.Entries(ctx, nil)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Downstream })
	if i < 0 {
		return fmt.Errorf("%w (%s): no downstream entry for %s: have its operator create one", ErrRefused, u.cfg.Addr, u.agent.SVID.ID)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	results, err := c.NewX509SVIDs(ctx, []Request{{EntryID: entries[i].ID, ID: entries[i].SPIFFEID, Key: key}})
	if err != nil {
		return err
	}
	if results[0].Err != nil {
		return results[0].Err
	}
	down, err := Dial(u.cfg, results[0].SVID)
	if err != nil {
		return err
	}
	if u.down != nil {
		err = u.down.Close()
	}
	u.down = down
	return err
}

// attest makes sure of an agent SVID that is good for a while.
func (u *Upstream) attest(ctx context.Context) error {
	switch {
	case u.agent.SVID != nil && !pastHalf(u.agent.SVID):
		return nil
	case u.agent.SVID == nil || u.agent.Reattest:
		a, err := Attest(ctx, u.cfg, u.by, u.agents)
		if err != nil {
			return err
		}
		u.agent = a
		return nil
	}
	c, err := Dial(u.cfg, u.agent.SVID)
	if err != nil {
		return err
	}
	defer c.Close()
	svid, err := c.Renew(ctx, u.agents)
	if err != nil {
		return err
	}
	u.agent.SVID = svid
	return nil
}

func pastHalf(s *x509svid.SVID) bool {
	c := s.Certificates[0]
	return time.Until(c.NotAfter) < c.NotAfter.Sub(c.NotBefore)/2
}
