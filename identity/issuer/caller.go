package issuer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// caller is who makes a call: verified, active, in good standing.
type caller struct {
	id     spiffeid.ID // of the SVID shown: an agent or a node
	agent  spiffeid.ID // what attested
	record agent
	node   Entry            // the machine's own name; zero if no entry gives it one
	key    crypto.PublicKey // of the SVID shown
}

// caller verifies the client certificate of this call anew. The error is a gRPC
// status, with SPIRE's PermissionDeniedDetails where there is one.
func (s *Server) caller(ctx context.Context, now time.Time) (caller, error) {
	info, _, err := channel(ctx)
	if err != nil {
		return caller{}, err
	}
	certs := info.State.PeerCertificates
	if len(certs) == 0 {
		return caller{}, status.Error(codes.PermissionDenied, "this call needs an SVID of this region: attest first")
	}
	id, err := identity.VerifyPeer(certs, s.cfg.CA, s.ours, now)
	if errors.Is(err, identity.ErrExpired) {
		return caller{}, denied(types.PermissionDeniedDetails_AGENT_EXPIRED, "%v", err)
	} else if err != nil {
		return caller{}, status.Error(codes.PermissionDenied, err.Error())
	}
	entries := s.entries.Load()
	c := caller{id: id, agent: id, key: certs[0].PublicKey}
	if !isAgent(id) {
		parent, ok := entries.agents[id]
		if !ok {
			return caller{}, status.Errorf(codes.PermissionDenied, "%s is neither an agent nor a node with an entry", id)
		}
		c.agent = parent
	}
	c.node, _ = entries.node(c.agent)
	for _, id := range []spiffeid.ID{c.agent, c.node.SPIFFEID} {
		if err := s.standing(id); err != nil {
			return c, err
		}
	}
	promote := false
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		c.record, err = loadAgent(tx, c.agent)
		return err
	})
	switch {
	case errors.Is(err, ErrUnknownAgent):
		return c, denied(types.PermissionDeniedDetails_AGENT_NOT_ATTESTED, "%v", err)
	case err != nil:
		return c, status.Error(codes.Internal, err.Error())
	case c.record.Banned:
		return c, denied(types.PermissionDeniedDetails_AGENT_BANNED, "%s is banned", c.agent)
	}
	if isAgent(id) {
		active := false
		if active, promote = c.record.active(certs[0]); !active {
			return c, denied(types.PermissionDeniedDetails_AGENT_NOT_ACTIVE, "this is not the active SVID of %s", id)
		}
	}
	if promote {
		err = s.cfg.Store.Update(func(tx *store.Tx) error {
			fresh, err := loadAgent(tx, c.agent)
			if err != nil {
				return err
			}
			if _, changed := fresh.active(certs[0]); !changed {
				return nil
			}
			return fresh.save(tx, c.agent)
		})
		if err != nil {
			return c, status.Error(codes.Internal, err.Error())
		}
	}
	return c, nil
}

// reach returns the entries of d the caller may ask for, sorted.
func (c caller) reach(d *directory) []string {
	var shows []string
	if c.id == c.agent {
		shows = append(c.record.Selectors, "spiffe_id:"+c.id.String())
	}
	return d.reach(c.id, shows, time.Now())
}

// share charges a caller's machine for n signatures. It is told so and nothing is
// recorded: a leaf would cost more than what is refused.
func (s *Server) share(c caller, n int, now time.Time) error {
	if s.shares.take(c.agent, n, now) {
		return nil
	}
	s.refused.WithLabelValues("limit").Inc()
	return status.Errorf(codes.ResourceExhausted, "%s asks for more than its share: try again in a second", c.agent)
}

// standing turns the hook's answer into a status. A quarantine may be lifted, so
// it is not SPIRE's AGENT_BANNED, at which an agent shuts down for good.
func (s *Server) standing(id spiffeid.ID) error {
	if id.IsZero() {
		return nil
	}
	if err := s.cfg.Standing(id); err != nil {
		return status.Errorf(codes.PermissionDenied, "%s gets nothing at present: %v", id, err)
	}
	return nil
}

// refuse records why a caller was refused and returns the status to answer.
// What cannot be recorded is answered as unavailable.
func (s *Server) refuse(what string, to, id spiffeid.ID, why error) error {
	s.refused.WithLabelValues(what).Inc()
	l := refuseLeaf{What: what, To: to.String(), Why: short(why)}
	if !id.IsZero() {
		l.ID = id.String()
	}
	if err := s.cfg.Store.Update(func(tx *store.Tx) error { return leaf(tx, leafRefuse, l) }); err != nil {
		return unavailable(err)
	}
	if _, ok := status.FromError(why); ok {
		return why
	}
	return status.Error(codes.PermissionDenied, why.Error())
}

// channel returns the TLS session a call came over, and from which address.
func channel(ctx context.Context) (credentials.TLSInfo, netip.Addr, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return credentials.TLSInfo{}, netip.Addr{}, status.Error(codes.Internal, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return credentials.TLSInfo{}, netip.Addr{}, status.Error(codes.Internal, "no TLS")
	}
	addr, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return info, netip.Addr{}, nil // not an IP transport: all such share one account
	}
	return info, addr.Addr(), nil
}

func denied(reason types.PermissionDeniedDetails_Reason, format string, args ...any) error {
	st := status.New(codes.PermissionDenied, fmt.Sprintf(format, args...))
	if detailed, err := st.WithDetails(&types.PermissionDeniedDetails{Reason: reason}); err == nil {
		st = detailed
	}
	return st.Err()
}

func unavailable(err error) error {
	return status.Errorf(codes.Unavailable, "cannot record it, so it is not done: %v", err)
}
