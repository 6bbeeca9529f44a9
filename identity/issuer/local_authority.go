package issuer

import (
	"context"
	"errors"

	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// localAuthorityAPI is spire.api.server.localauthority.v1.LocalAuthority.
type localAuthorityAPI struct {
	localauthorityv1.UnimplementedLocalAuthorityServer
	*Server
}

type authorityMessage = localauthorityv1.AuthorityState

func (s localAuthorityAPI) states(k Kind) (active, prepared, old *authorityMessage) {
	for _, a := range s.cfg.CA.Authorities() {
		if a.Kind != k {
			continue
		}
		switch a.State {
		case Active:
			active = stateMessage(a)
		case Prepared:
			prepared = stateMessage(a)
		case Old: // the newest: SPIRE's message has room for one
			old = stateMessage(a)
		}
	}
	return active, prepared, old
}

func stateMessage(a Authority) *authorityMessage {
	return &authorityMessage{AuthorityId: a.ID, ExpiresAt: a.NotAfter.Unix()}
}

func authorityError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrAuthority), errors.Is(err, ErrAuthorityInUse), errors.Is(err, ErrUnpublished):
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// GetX509AuthorityState and the methods below are steps of a rotation: see
// Server.Prepare, Activate, Taint and Retire.
func (s localAuthorityAPI) GetX509AuthorityState(context.Context, *localauthorityv1.GetX509AuthorityStateRequest) (*localauthorityv1.GetX509AuthorityStateResponse, error) {
	active, prepared, old := s.states(X509)
	return &localauthorityv1.GetX509AuthorityStateResponse{Active: active, Prepared: prepared, Old: old}, nil
}

// GetJWTAuthorityState is the same for JWT keys.
func (s localAuthorityAPI) GetJWTAuthorityState(context.Context, *localauthorityv1.GetJWTAuthorityStateRequest) (*localauthorityv1.GetJWTAuthorityStateResponse, error) {
	active, prepared, old := s.states(JWT)
	return &localauthorityv1.GetJWTAuthorityStateResponse{Active: active, Prepared: prepared, Old: old}, nil
}

// PrepareX509Authority is Server.Prepare.
func (s localAuthorityAPI) PrepareX509Authority(context.Context, *localauthorityv1.PrepareX509AuthorityRequest) (*localauthorityv1.PrepareX509AuthorityResponse, error) {
	a, err := s.Prepare(X509)
	return &localauthorityv1.PrepareX509AuthorityResponse{PreparedAuthority: stateMessage(a)}, authorityError(err)
}

// PrepareJWTAuthority is Server.Prepare.
func (s localAuthorityAPI) PrepareJWTAuthority(context.Context, *localauthorityv1.PrepareJWTAuthorityRequest) (*localauthorityv1.PrepareJWTAuthorityResponse, error) {
	a, err := s.Prepare(JWT)
	return &localauthorityv1.PrepareJWTAuthorityResponse{PreparedAuthority: stateMessage(a)}, authorityError(err)
}

// ActivateX509Authority is Server.Activate.
func (s localAuthorityAPI) ActivateX509Authority(_ context.Context, req *localauthorityv1.ActivateX509AuthorityRequest) (*localauthorityv1.ActivateX509AuthorityResponse, error) {
	a, err := s.Activate(X509, req.GetAuthorityId())
	return &localauthorityv1.ActivateX509AuthorityResponse{ActivatedAuthority: stateMessage(a)}, authorityError(err)
}

// ActivateJWTAuthority is Server.Activate.
func (s localAuthorityAPI) ActivateJWTAuthority(_ context.Context, req *localauthorityv1.ActivateJWTAuthorityRequest) (*localauthorityv1.ActivateJWTAuthorityResponse, error) {
	a, err := s.Activate(JWT, req.GetAuthorityId())
	return &localauthorityv1.ActivateJWTAuthorityResponse{ActivatedAuthority: stateMessage(a)}, authorityError(err)
}

// TaintX509Authority is Server.Taint.
func (s localAuthorityAPI) TaintX509Authority(_ context.Context, req *localauthorityv1.TaintX509AuthorityRequest) (*localauthorityv1.TaintX509AuthorityResponse, error) {
	a, err := s.Taint(X509, req.GetAuthorityId())
	return &localauthorityv1.TaintX509AuthorityResponse{TaintedAuthority: stateMessage(a)}, authorityError(err)
}

// TaintJWTAuthority is Server.Taint.
func (s localAuthorityAPI) TaintJWTAuthority(_ context.Context, req *localauthorityv1.TaintJWTAuthorityRequest) (*localauthorityv1.TaintJWTAuthorityResponse, error) {
	a, err := s.Taint(JWT, req.GetAuthorityId())
	return &localauthorityv1.TaintJWTAuthorityResponse{TaintedAuthority: stateMessage(a)}, authorityError(err)
}

// RevokeX509Authority is Server.Retire.
func (s localAuthorityAPI) RevokeX509Authority(_ context.Context, req *localauthorityv1.RevokeX509AuthorityRequest) (*localauthorityv1.RevokeX509AuthorityResponse, error) {
	a, err := s.Retire(X509, req.GetAuthorityId())
	return &localauthorityv1.RevokeX509AuthorityResponse{RevokedAuthority: stateMessage(a)}, authorityError(err)
}

// RevokeJWTAuthority is Server.Retire.
func (s localAuthorityAPI) RevokeJWTAuthority(_ context.Context, req *localauthorityv1.RevokeJWTAuthorityRequest) (*localauthorityv1.RevokeJWTAuthorityResponse, error) {
	a, err := s.Retire(JWT, req.GetAuthorityId())
	return &localauthorityv1.RevokeJWTAuthorityResponse{RevokedAuthority: stateMessage(a)}, authorityError(err)
}
