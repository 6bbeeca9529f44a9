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
	cfg UpstreamConfig

	mu      sync.Mutex // held during a call
	bundles *x509bundle.Set
	agent   Agent
	kept    *x509svid.SVID // of the agent
	down    *Client
}

// UpstreamConfig is what an Upstream works with.
type UpstreamConfig struct {
	// Config says which server. Its Bundles must know the server's trust domain when
	// the Upstream is made; from then on the server's bundle is followed.
	Config
	// By attests, with Key, when there is no agent SVID that can be renewed. Required,
	// both.
	By  Attester
	Key crypto.Signer
	// Agent is the SVID, for Key, that Keep was last given; nil: none.
	Agent *x509svid.SVID
	// Keep keeps an agent SVID that evidence does not give a second time, as a join
	// token does not, before it is used. Nil: it is lost with the process.
	Keep func(*x509svid.SVID) error
}

// NewUpstream returns an Upstream that connects when first used.
func NewUpstream(cfg UpstreamConfig) (*Upstream, error) {
	first, err := cfg.Bundles.GetX509BundleForTrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	u := &Upstream{cfg: cfg, bundles: x509bundle.NewSet(first.Clone()), agent: Agent{SVID: cfg.Agent}, kept: cfg.Agent}
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

// use runs call with a client that shows the downstream SVID. What the server does
// not take any more is had again: that SVID first, then the agent's behind it, since
// evidence may work only once.
func (u *Upstream) use(ctx context.Context, call func(*Client) error) (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for range 3 {
		if err = u.connect(ctx); err == nil {
			err = call(u.down)
			if !errors.Is(err, ErrMustAttest) {
				return err
			}
			err = errors.Join(err, u.down.Close())
			u.down = nil
		} else if errors.Is(err, ErrMustAttest) {
			u.agent = Agent{}
		} else {
			return err
		}
	}
	return err
}

// connect makes sure of an agent SVID and of that of the downstream entry.
func (u *Upstream) connect(ctx context.Context) error {
	if u.down != nil && fresh(u.down.svid) && fresh(u.agent.SVID) {
		return nil
	}
	if err := u.attest(ctx); err != nil {
		return err
	}
	c, err := Dial(u.cfg.Config, u.agent.SVID)
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
	down, err := Dial(u.cfg.Config, results[0].SVID)
	if err != nil {
		return err
	}
	if u.down != nil {
		err = u.down.Close()
	}
	u.down = down
	return err
}

// attest makes sure of an agent SVID that is good for a while, and is kept.
func (u *Upstream) attest(ctx context.Context) error {
	switch {
	case fresh(u.agent.SVID):
	case u.agent.SVID == nil || u.agent.Reattest:
		a, err := Attest(ctx, u.cfg.Config, u.cfg.By, u.cfg.Key)
		if err != nil {
			return err
		}
		u.agent = a
	default:
		c, err := Dial(u.cfg.Config, u.agent.SVID)
		if err != nil {
			return err
		}
		defer c.Close()
		renewed, err := c.Renew(ctx, u.cfg.Key)
		if err != nil {
			return err
		}
		u.agent.SVID = renewed
	}
	if u.agent.Reattest || u.cfg.Keep == nil || u.kept == u.agent.SVID {
		return nil
	}
	if err := u.cfg.Keep(u.agent.SVID); err != nil {
		return err
	}
	u.kept = u.agent.SVID
	return nil
}

// fresh reports whether an SVID is in the first half of its life.
func fresh(s *x509svid.SVID) bool {
	if s == nil {
		return false
	}
	c := s.Certificates[0]
	return time.Until(c.NotAfter) >= c.NotAfter.Sub(c.NotBefore)/2
}
