package workloadapi

import (
	"context"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	maxAudiences = 32      // of one request
	maxToken     = 8 << 10 // bytes of a token to validate
)

// FetchJWTSVID implements the Workload API: a token of each identity of the
// caller, or of the one it names.
func (s *Server) FetchJWTSVID(ctx context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if err := checkAudience(req.Audience); err != nil {
		return nil, err
	}
	var want spiffeid.ID
	if req.SpiffeId != "" {
		var err error
		if want, err = spiffeid.FromString(req.SpiffeId); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "invalid requested SPIFFE ID: %v", err)
		}
	}
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	identities, err := s.identities(c)
	if err != nil {
		return nil, err
	}
	resp := &workload.JWTSVIDResponse{}
	for _, i := range identities {
		if !want.IsZero() && i.SVID.ID != want {
			continue
		}
		svid, err := s.cfg.Source.JWTSVID(ctx, i, req.Audience)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, status.Errorf(codes.Unavailable, "could not fetch JWT-SVID: %v", err)
		}
		resp.Svids = append(resp.Svids, &workload.JWTSVID{SpiffeId: svid.ID.String(), Svid: svid.Marshal(), Hint: i.Hint})
	}
	if len(resp.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	// Issuing took time: the process that gets the tokens must be the one that asked.
	return resp, c.recheck()
}

func checkAudience(audience []string) error {
	if len(audience) == 0 {
		return status.Error(codes.InvalidArgument, "audience must be specified")
	}
	if len(audience) > maxAudiences {
		return status.Errorf(codes.InvalidArgument, "%d audiences, at most %d", len(audience), maxAudiences)
	}
	for _, a := range audience {
		if a == "" {
			return status.Error(codes.InvalidArgument, "audience must be specified: one of them is empty")
		}
	}
	return nil
}

// FetchJWTBundles implements the Workload API. As in SPIRE, a process without
// an identity gets none.
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return push(s, stream, func(c Caller) (*workload.JWTBundlesResponse, error) {
		if _, err := s.identities(c); err != nil {
			return nil, err
		}
		resp := &workload.JWTBundlesResponse{Bundles: map[string][]byte{}}
		for _, b := range s.cfg.Source.Bundles() {
			jwks, err := b.JWTBundle().Marshal()
			if err != nil {
				return nil, status.Errorf(codes.Internal, "JWT keys of %s: %v", b.TrustDomain(), err)
			}
			resp.Bundles[b.TrustDomain().IDString()] = jwks
		}
		return resp, nil
	})
}

// ValidateJWTSVID implements the Workload API. It needs no identity: whoever
// reaches the socket may ask. Claims of another trust domain's token beyond sub,
// exp and aud are left out, as in SPIRE: nobody here has agreed on their meaning.
func (s *Server) ValidateJWTSVID(ctx context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	switch {
	case req.Audience == "":
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	case req.Svid == "":
		return nil, status.Error(codes.InvalidArgument, "svid must be specified")
	case len(req.Svid) > maxToken:
		return nil, status.Errorf(codes.InvalidArgument, "svid has %d bytes, at most %d", len(req.Svid), maxToken)
	}
	if _, err := s.caller(ctx); err != nil {
		return nil, err
	}
	known := jwtbundle.NewSet()
	for _, b := range s.cfg.Source.Bundles() {
		known.Add(b.JWTBundle())
	}
	svid, err := jwtsvid.ParseAndValidate(req.Svid, known, []string{req.Audience})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := s.claims(svid)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

// claims returns those of a valid token that may be shown, aud always as a list.
func (s *Server) claims(svid *jwtsvid.SVID) (*structpb.Struct, error) {
	out := map[string]any{}
	for name, value := range svid.Claims {
		switch name {
		case "sub", "exp":
			out[name] = value
		case "aud":
			list := make([]any, 0, len(svid.Audience))
			for _, a := range svid.Audience {
				list = append(list, a)
			}
			out[name] = list
		default:
			if svid.ID.MemberOf(s.cfg.TrustDomain) {
				out[name] = value
			}
		}
	}
	claims, err := structpb.NewStruct(out)
	if err != nil {
		return nil, fmt.Errorf("claims of %s: %w", svid.ID, err)
	}
	return claims, nil
}

// caller returns the process of a call, looked at again, or the status to end
// the call with.
func (s *Server) caller(ctx context.Context) (Caller, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return Caller{}, err
	}
	return c, c.recheck()
}
