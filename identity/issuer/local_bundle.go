package issuer

import (
	"context"
	"time"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// localBundleAPI is spire.api.server.bundle.v1.Bundle for the operator. Bundles
// cannot be changed by it: other regions' are signed trust records.
type localBundleAPI struct {
	bundlev1.UnimplementedBundleServer
	*Server
}

// CountBundles counts the region's own bundle and those of other regions.
func (s localBundleAPI) CountBundles(context.Context, *bundlev1.CountBundlesRequest) (*bundlev1.CountBundlesResponse, error) {
	return &bundlev1.CountBundlesResponse{Count: int32(1 + len(s.others()))}, nil
}

// GetBundle returns the region's own.
func (s localBundleAPI) GetBundle(ctx context.Context, req *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	return bundleAPI{Server: s.Server}.GetBundle(ctx, req)
}

// GetFederatedBundle returns another region's.
func (s localBundleAPI) GetFederatedBundle(_ context.Context, req *bundlev1.GetFederatedBundleRequest) (*types.Bundle, error) {
	return s.federated(req)
}

// ListFederatedBundles returns all other regions', on one page.
func (s localBundleAPI) ListFederatedBundles(_ context.Context, req *bundlev1.ListFederatedBundlesRequest) (*bundlev1.ListFederatedBundlesResponse, error) {
	out := &bundlev1.ListFederatedBundlesResponse{}
	for _, r := range s.others() {
		b, err := recordMessage(r, time.Now())
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		out.Bundles = append(out.Bundles, mask(b, req.GetOutputMask()))
	}
	return out, nil
}

// others are the valid trust records of other regions.
func (s *Server) others() (out []trust.Record) {
	if s.cfg.Trust == nil {
		return nil
	}
	for _, r := range s.cfg.Trust.Regions() {
		if r.TrustDomain != s.td && r.ValidAt(time.Now()) {
			out = append(out, r)
		}
	}
	return out
}
