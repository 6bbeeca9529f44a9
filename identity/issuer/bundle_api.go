package issuer

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// refreshHint is how often whoever asks for bundles should ask again.
const refreshHint = 5 * time.Minute

// bundleAPI is spire.api.server.bundle.v1.Bundle.
type bundleAPI struct {
	bundlev1.UnimplementedBundleServer
	*Server
}

// GetBundle returns the region's X.509 roots and JWT keys. It needs no
// certificate: the caller already knows a root, or this channel would not stand.
func (s bundleAPI) GetBundle(_ context.Context, req *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	b, err := s.bundle()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return mask(b, req.GetOutputMask()), nil
}

// GetFederatedBundle returns the X.509 roots of another region and the JWT keys that
// its trust record names.
func (s bundleAPI) GetFederatedBundle(ctx context.Context, req *bundlev1.GetFederatedBundleRequest) (*types.Bundle, error) {
	if _, err := s.caller(ctx, time.Now()); err != nil {
		return nil, err
	}
	return s.federated(req)
}

func (s *Server) federated(req *bundlev1.GetFederatedBundleRequest) (*types.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(req.GetTrustDomain())
	switch {
	case err != nil:
		return nil, status.Errorf(codes.InvalidArgument, "trust domain: %v", err)
	case td == s.td:
		return nil, status.Errorf(codes.InvalidArgument, "%s is this region's own trust domain", td)
	case s.cfg.Trust == nil:
		return nil, status.Errorf(codes.NotFound, "no trust record of %s is known here", td)
	}
	r, ok := s.cfg.Trust.Record(td)
	if !ok || !r.ValidAt(time.Now()) {
		return nil, status.Errorf(codes.NotFound, "no trust record of %s is known here, or it expired", td)
	}
	b, err := recordMessage(r, time.Now())
	if err == nil {
		err = s.number(b, r.Version)
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return mask(b, req.GetOutputMask()), nil
}

func recordMessage(r trust.Record, now time.Time) (*types.Bundle, error) {
	b := &types.Bundle{TrustDomain: r.TrustDomain.Name(), RefreshHint: int64(refreshHint.Seconds())}
	for _, c := range r.X509Roots {
		b.X509Authorities = append(b.X509Authorities, &types.X509Certificate{Asn1: c.Raw})
	}
	for _, k := range r.JWTKeys {
		if !now.Before(k.NotAfter) {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(k.Key)
		if err != nil {
			return nil, err
		}
		b.JwtAuthorities = append(b.JwtAuthorities, &types.JWTKey{PublicKey: der, KeyId: k.ID, ExpiresAt: k.NotAfter.Unix()})
	}
	return b, nil
}

// bundle is the region's own, prepared authorities included: they must be known
// before they sign.
func (s *Server) bundle() (*types.Bundle, error) {
	now := s.cfg.CA.now.Load()
	b, floor := &types.Bundle{TrustDomain: s.td.Name(), RefreshHint: int64(refreshHint.Seconds())}, now.sequence
	for _, a := range now.of(X509) {
		if !a.Nested {
			b.X509Authorities = append(b.X509Authorities, &types.X509Certificate{Asn1: a.Certificate.Raw, Tainted: a.Tainted})
		}
	}
	for _, a := range now.of(JWT) {
		der, err := x509.MarshalPKIXPublicKey(&a.key.PublicKey)
		if err != nil {
			return nil, err
		}
		b.JwtAuthorities = append(b.JwtAuthorities, &types.JWTKey{PublicKey: der, KeyId: a.ID, ExpiresAt: a.NotAfter.Unix(), Tainted: a.Tainted})
	}
	if s.cfg.Trust != nil {
		r, _ := s.cfg.Trust.Record(s.td)
		floor += r.Version // both only grow
	}
	for _, c := range s.otherRoots() {
		b.X509Authorities = append(b.X509Authorities, &types.X509Certificate{Asn1: c.Raw})
	}
	if s.cfg.Others != nil {
		for _, a := range s.cfg.Others() {
			der, err := x509.MarshalPKIXPublicKey(a.Key)
			if err != nil {
				return nil, err
			}
			if now.find(JWT, a.ID) < 0 {
				b.JwtAuthorities = append(b.JwtAuthorities, &types.JWTKey{PublicKey: der, KeyId: a.ID, ExpiresAt: a.NotAfter.Unix(), Tainted: a.Tainted})
			}
		}
	}
	if now.upstream == nil {
		return b, s.number(b, floor)
	}
	for _, c := range now.upstream.X509Authorities() {
		b.X509Authorities = append(b.X509Authorities, &types.X509Certificate{Asn1: c.Raw})
	}
	for kid, key := range now.upstream.JWTAuthorities() {
		if now.find(JWT, kid) >= 0 {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, err
		}
		b.JwtAuthorities = append(b.JwtAuthorities, &types.JWTKey{PublicKey: der, KeyId: kid})
	}
	return b, s.number(b, floor)
}

// otherRoots are the region's roots that are not this issuer's, nor were: those of its
// other issuers, by the region's trust record.
func (s *Server) otherRoots() []*x509.Certificate {
	if s.cfg.Trust == nil || s.cfg.CA.now.Load().upstream != nil { // whose bundle is the region's
		return nil
	}
	r, ok := s.cfg.Trust.Record(s.td)
	if !ok || !r.ValidAt(time.Now()) {
		return nil
	}
	out, err := s.ofOthers(r.X509Roots)
	if err != nil {
		s.log.Error("which roots are another issuer's is not known", "err", err)
	}
	return out
}

// roots are what verifies callers, as of one set of authorities and one trust record:
// also those who attested at another issuer of the region, who then hear that they
// must attest here.
type roots struct {
	own    *authorities
	record uint64 // version; 0: none is valid
	bundle *x509bundle.Bundle
}

// rootsNow returns the same ones until they change.
func (s *Server) rootsNow() *roots {
	now := roots{own: s.cfg.CA.now.Load()}
	if s.cfg.Trust != nil {
		if r, ok := s.cfg.Trust.Record(s.td); ok && r.ValidAt(time.Now()) {
			now.record = r.Version
		}
	}
	if known := s.roots.Load(); known != nil && known.own == now.own && known.record == now.record {
		return known
	}
	now.bundle = now.own.bundle(s.td)
	for _, c := range s.otherRoots() {
		now.bundle.AddX509Authority(c)
	}
	s.roots.Store(&now)
	return &now
}

// mask leaves out what the caller does not want; nil wants all.
func mask(b *types.Bundle, m *types.BundleMask) *types.Bundle {
	if m == nil {
		return b
	}
	if !m.X509Authorities {
		b.X509Authorities = nil
	}
	if !m.JwtAuthorities {
		b.JwtAuthorities = nil
	}
	if !m.RefreshHint {
		b.RefreshHint = 0
	}
	if !m.SequenceNumber {
		b.SequenceNumber = 0
	}
	return b
}
