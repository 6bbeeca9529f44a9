package issuer

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

// caller is who makes a call: verified, active, in good standing.
type caller struct {
	on      *session
	from    netip.Addr
	id      spiffeid.ID // of the SVID shown: an agent or a node
	agent   spiffeid.ID // what attested
	record  *readRecord
	node    Entry             // the machine's own name; zero if no entry gives it one
	key     crypto.PublicKey  // of the SVID shown
	newly   *x509.Certificate // shown for the first time, which record has to remember; nil: it is known
	adopted *agent            // what record has to keep of an agent that another issuer admitted; nil: it is known
}

// caller is recognise for calls that record nothing themselves.
func (s *Server) caller(ctx context.Context, now time.Time) (caller, error) {
	c, err := s.recognise(ctx, now)
	if err != nil || c.newly == nil && c.adopted == nil {
		return c, err
	}
	if err := s.record(c, func(*store.Tx) error { return nil }); err != nil {
		return c, status.Error(codes.Internal, err.Error())
	}
	return c, nil
}

// record is Store.Update for what a caller brought about. Where the caller showed a new
// SVID, or one of another issuer's, that is the active one from this transaction on.
func (s *Server) record(c caller, fn func(*store.Tx) error) error {
	return s.cfg.Store.Update(func(tx *store.Tx) error {
		switch {
		case c.adopted != nil:
			if err := s.adopt(tx, c); err != nil {
				return err
			}
		case c.newly != nil:
			fresh, err := loadAgent(tx, c.agent)
			if err != nil {
				return err
			}
			if _, changed := fresh.active(c.newly); changed {
				if err := fresh.save(tx, c.agent); err != nil {
					return err
				}
			}
		}
		return fn(tx)
	})
}

// recognise verifies the client certificate of this call. The error is a gRPC status,
// with SPIRE's PermissionDeniedDetails where there is one. What comes of the call is
// for record, or refuse.
func (s *Server) recognise(ctx context.Context, now time.Time) (caller, error) {
	on, from, err := channel(ctx)
	if err != nil {
		return caller{}, err
	}
	certs := on.State.PeerCertificates
	if len(certs) == 0 {
		return caller{}, status.Error(codes.PermissionDenied, "this call needs an SVID of this region: attest first")
	}
	id, err := on.verify(now, s.rootsNow(), s.ours)
	if errors.Is(err, identity.ErrExpired) {
		return caller{}, denied(types.PermissionDeniedDetails_AGENT_EXPIRED, "%v", err)
	} else if err != nil {
		return caller{}, status.Error(codes.PermissionDenied, err.Error())
	}
	entries := s.entries.Load()
	c := caller{on: on, from: from, id: id, agent: id, key: certs[0].PublicKey}
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
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		c.record, err = on.load(tx, c.agent)
		return err
	})
	unknown := errors.Is(err, ErrUnknownAgent)
	switch {
	case err != nil && !unknown:
		return c, status.Error(codes.Internal, err.Error())
	case !unknown && c.record.Banned:
		return c, denied(types.PermissionDeniedDetails_AGENT_BANNED, "%s is banned", c.agent)
	}
	var known *agent
	if !unknown && isAgent(id) {
		record := c.record.agent
		known = &record
		active, changed := known.active(certs[0])
		if changed {
			c.newly = certs[0]
		}
		if active {
			return c, nil
		}
	} else if !unknown {
		return c, nil
	}
	if c.adopted, err = s.adoptable(c, certs[0], known, now); err != nil {
		return c, status.Error(codes.Internal, err.Error())
	}
	switch {
	case c.adopted != nil:
		c.record = &readRecord{agent: *c.adopted}
		return c, nil
	case unknown:
		return c, denied(types.PermissionDeniedDetails_AGENT_NOT_ATTESTED, "%v: %s", ErrUnknownAgent, c.agent)
	}
	return c, denied(types.PermissionDeniedDetails_AGENT_NOT_ACTIVE, "this is not the active SVID of %s", id)
}

// reach returns the entries of d the caller may ask for, sorted.
func (c caller) reach(d *directory) []string {
	if c.id == c.agent {
		return c.on.reachable(d, c.id, c.record, time.Now())
	}
	return c.on.reachable(d, c.id, nil, time.Now())
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
func (s *Server) refuse(what string, c caller, id spiffeid.ID, why error) error {
	s.refused.WithLabelValues(what).Inc()
	l := refuseLeaf{What: what, To: c.id.String(), Why: short(why)}
	if !id.IsZero() {
		l.ID = id.String()
	}
	if err := s.record(c, func(tx *store.Tx) error { return leaf(tx, leafRefuse, l) }); err != nil {
		return unavailable(err)
	}
	if _, ok := status.FromError(why); ok {
		return why
	}
	return status.Error(codes.PermissionDenied, why.Error())
}

// channel returns the connection a call came over, and from which address.
func channel(ctx context.Context) (*session, netip.Addr, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, netip.Addr{}, status.Error(codes.Internal, "no peer")
	}
	info, ok := p.AuthInfo.(*session)
	if !ok {
		return nil, netip.Addr{}, status.Error(codes.Internal, "no TLS")
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
