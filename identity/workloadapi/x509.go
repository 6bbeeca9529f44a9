package workloadapi

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// FetchX509SVID implements the Workload API.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return push(s, stream, func(c Caller) (*workload.X509SVIDResponse, error) {
		identities, err := s.identities(c)
		if err != nil {
			return nil, err
		}
		return svidResponse(identities, s.cfg.Source.Bundles())
	})
}

// FetchX509Bundles implements the Workload API. As in SPIRE, a process without
// an identity gets none.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return push(s, stream, func(c Caller) (*workload.X509BundlesResponse, error) {
		if _, err := s.identities(c); err != nil {
			return nil, err
		}
		resp := &workload.X509BundlesResponse{Bundles: map[string][]byte{}}
		for _, b := range s.cfg.Source.Bundles() {
			resp.Bundles[b.TrustDomain().IDString()] = roots(b)
		}
		return resp, nil
	})
}

// push sends what build makes, now and after every change that makes it
// another, until the caller leaves, is no longer who it was, or build refuses.
func push[R any, P interface {
	*R
	proto.Message
}](s *Server, stream grpc.ServerStreamingServer[R], build func(Caller) (P, error)) error {
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	if err := stream.SetHeader(metadata.Pairs(AsOfHeader, s.cfg.Source.AsOf().UTC().Format(time.RFC3339))); err != nil {
		return err
	}
	var last P
	for {
		changed := s.cfg.Source.Changed() // before build: a change during it is seen
		if err := c.recheck(); err != nil {
			return err
		}
		resp, err := build(c)
		if err != nil {
			return err
		}
		if last == nil || !proto.Equal(last, resp) {
			if err := stream.Send(resp); err != nil {
				return err
			}
			last = resp
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the node is stopping")
		}
	}
}

// identities returns what c may be now, at least one, or the status to end its
// call with.
func (s *Server) identities(c Caller) ([]Identity, error) {
	all, err := s.cfg.Source.Identities(c.shows)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "no identities to give yet: %v", err)
	}
	if len(all) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	valid, last := usable(all, time.Now())
	if len(valid) == 0 {
		return nil, status.Errorf(codes.Unavailable, "all identities expired, the last %s: no issuer can be reached", last.UTC().Format(time.RFC3339))
	}
	return valid, nil
}

// usable returns the identities that are valid now, one for each hint, and when the
// last of those that are not ended.
func usable(all []Identity, now time.Time) (valid []Identity, last time.Time) {
	hints := map[string]bool{}
	for _, i := range all {
		end := i.SVID.Certificates[0].NotAfter
		switch {
		case !now.Before(end):
			last = later(last, end)
		case !hints[i.Hint]:
			hints[i.Hint] = i.Hint != ""
			valid = append(valid, i)
		}
	}
	return valid, last
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func svidResponse(identities []Identity, bundles []*spiffebundle.Bundle) (*workload.X509SVIDResponse, error) {
	resp := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	own := map[string]bool{}
	for _, i := range identities {
		td := i.SVID.ID.TrustDomain()
		own[td.IDString()] = true
		chain, key, err := i.SVID.MarshalRaw()
		if err != nil {
			return nil, status.Errorf(codes.Internal, "key of %s cannot be handed out: %v", i.SVID.ID, err)
		}
		svid := &workload.X509SVID{SpiffeId: i.SVID.ID.String(), X509Svid: chain, X509SvidKey: key, Hint: i.Hint}
		for _, b := range bundles {
			if b.TrustDomain() == td {
				svid.Bundle = roots(b)
			}
		}
		if len(svid.Bundle) == 0 {
			return nil, status.Errorf(codes.Unavailable, "no trust bundle of %s yet", td)
		}
		resp.Svids = append(resp.Svids, svid)
	}
	for _, b := range bundles {
		if td := b.TrustDomain().IDString(); !own[td] {
			resp.FederatedBundles[td] = roots(b)
		}
	}
	return resp, nil
}

// roots returns a bundle's certificates in DER, one after the other.
func roots(b *spiffebundle.Bundle) (der []byte) {
	for _, c := range b.X509Authorities() {
		der = append(der, c.Raw...)
	}
	return der
}
