package issuer

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// GetFederatedBundle returns the X.509 roots of another region, from its trust
// record. Records name no JWT keys.
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
	return mask(recordMessage(r), req.GetOutputMask()), nil
}

func recordMessage(r trust.Record) *types.Bundle {
	b := &types.Bundle{TrustDomain: r.TrustDomain.Name(), RefreshHint: int64(refreshHint.Seconds()), SequenceNumber: r.Version}
	for _, c := range r.X509Roots {
		b.X509Authorities = append(b.X509Authorities, &types.X509Certificate{Asn1: c.Raw})
	}
	return b
}

// bundle is the region's own, prepared authorities included: they must be known
// before they sign.
func (s *Server) bundle() (*types.Bundle, error) {
	now := s.cfg.CA.now.Load()
	b := &types.Bundle{TrustDomain: s.td.Name(), RefreshHint: int64(refreshHint.Seconds()), SequenceNumber: now.sequence}
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
	if now.upstream == nil {
		return b, nil
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
	return b, nil
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
