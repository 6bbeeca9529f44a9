package issuer

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
)

// nestedLifetime is how long a nested authority asks to be valid. The upstream may
// give less.
const nestedLifetime = 24 * time.Hour

// ErrUpstream means what the upstream gave is no authority certificate for this
// region that leads to its bundle, or one that ends no later than the one in use.
var ErrUpstream = errors.New("unusable certificate from the upstream authority: check that its trust domain is this region's and that it is not about to end itself")

// Upstream is an authority of the same trust domain that certifies ours. A
// spire.Upstream is one: a SPIRE server.
type Upstream interface {
	// NewCA certifies the key of a CSR as an authority. It returns the chain, the new
	// certificate first, without the anchor.
	NewCA(ctx context.Context, csr []byte, life time.Duration) ([]*x509.Certificate, error)
	// PublishJWT puts a JWT key of ours into the upstream's bundle.
	PublishJWT(ctx context.Context, keyID string, key crypto.PublicKey, notAfter time.Time) error
	// Bundle returns the trust domain's bundle.
	Bundle(ctx context.Context) (*spiffebundle.Bundle, error)
}

// NewNestedCA makes a CA that up certifies, in memory until saved. Its X.509 root
// lives as long as the upstream says, a day at most asked for; Follow renews it.
func NewNestedCA(ctx context.Context, td spiffeid.TrustDomain, up Upstream, now time.Time) (*CA, error) {
	bundle, err := up.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	first, err := nest(ctx, td, up, bundle, now)
	if err != nil {
		return nil, err
	}
	key, err := newJWT(now)
	if err != nil {
		return nil, err
	}
	if err := up.PublishJWT(ctx, key.ID, &key.key.PublicKey, key.NotAfter); err != nil {
		return nil, err
	}
	first.State, key.State = Active, Active
	ca := &CA{td: td}
	ca.now.Store(&authorities{sequence: 1, all: []authority{first, key}, upstream: bundle})
	return ca, nil
}

// nest has up certify a new key, and checks that it leads to anchors.
func nest(ctx context.Context, td spiffeid.TrustDomain, up Upstream, anchors *spiffebundle.Bundle, now time.Time) (authority, error) {
	r, err := root.NewBelow(td.ID().URL(), func(csr []byte) ([]*x509.Certificate, error) { return up.NewCA(ctx, csr, nestedLifetime) })
	if err != nil {
		return authority{}, err
	}
	a := newX509(r)
	if got, err := trustDomainOf(a); err != nil || got != td {
		return authority{}, fmt.Errorf("%w: it is for %s, not %s", ErrUpstream, a.Certificate.URIs, td)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range anchors.X509Authorities() {
		roots.AddCert(c)
	}
	for _, c := range r.Above() {
		between.AddCert(c)
	}
	_, err = a.Certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return authority{}, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	return a, nil
}

// Follow keeps a nested CA up to date: it takes over the upstream's bundle,
// publishes new JWT keys there and, at half of the life of its own authority, has
// another one certified. That one becomes active at once if it leads to an anchor
// that was in the bundle before, else at a later call: anchors must be known
// before they are used. On an error, which may be the upstream's, the CA goes on
// with what it has.
func (ca *CA) Follow(ctx context.Context, up Upstream, now time.Time) error {
	before := ca.now.Load()
	if before.upstream == nil {
		return fmt.Errorf("%w: this CA is its own anchor", ErrUpstream)
	}
	bundle, err := up.Bundle(ctx)
	if err != nil {
		return err
	}
	var errs []error
	if !before.upstream.Equal(bundle) {
		errs = append(errs, ca.change(func(a *authorities) (*authorities, error) {
			b := a.next()
			b.upstream = bundle
			return b, nil
		}))
	}
	for _, key := range before.of(JWT) {
		if _, known := bundle.FindJWTAuthority(key.ID); !known && now.Before(key.NotAfter) {
			errs = append(errs, up.PublishJWT(ctx, key.ID, &key.key.PublicKey, key.NotAfter))
		}
	}
	active, _ := before.in(X509, Active)
	ca.mu.Lock()
	wait := now.Before(ca.askAgain)
	ca.mu.Unlock()
	if left := active.NotAfter.Sub(now); !wait && left < active.NotAfter.Sub(active.Certificate.NotBefore)/2 {
		errs = append(errs, ca.succeed(ctx, up, before.upstream, active, now))
	}
	for _, x := range before.of(X509) {
		if x.State == Old && !now.Before(x.NotAfter) {
			errs = append(errs, ca.change(func(a *authorities) (*authorities, error) { return a.retire(X509, x.ID) }))
		}
	}
	return errors.Join(errs...)
}

// succeed replaces the active nested authority.
func (ca *CA) succeed(ctx context.Context, up Upstream, known *spiffebundle.Bundle, active authority, now time.Time) error {
	fresh, err := nest(ctx, ca.td, up, known, now)
	if err != nil {
		return err
	}
	if !fresh.NotAfter.After(active.NotAfter) { // the upstream has not renewed itself yet
		life := active.NotAfter.Sub(active.Certificate.NotBefore)
		ca.mu.Lock()
		ca.askAgain = now.Add(life / 20)
		ca.mu.Unlock()
		if active.NotAfter.Sub(now) > life/6 {
			return nil
		}
		return fmt.Errorf("%w: it ends %s, the one in use %s", ErrUpstream, fresh.NotAfter.UTC().Format(time.RFC3339), active.NotAfter.UTC().Format(time.RFC3339))
	}
	return ca.change(func(a *authorities) (*authorities, error) {
		b, err := a.prepare(fresh)
		if err != nil {
			return nil, err
		}
		return b.activate(X509, fresh.ID, now)
	})
}
