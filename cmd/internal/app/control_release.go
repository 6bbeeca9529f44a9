package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Release lets a node back in, where this node is the authority: in one step, or, where the region
// has approvers, by a draft that they sign in between.
func (h handler) Release(ctx context.Context, req *controlv1.ReleaseRequest) (*controlv1.ReleaseResponse, error) {
	if len(req.Approved) > 0 {
		return h.releaseApproved(ctx, req.Approved)
	}
	if id, ok := h.parked(req.Id); ok && !req.Draft {
		return h.unpark(ctx, id, req.Reason)
	}
	c, err := h.releasable(req.Id)
	if err != nil {
		return nil, err
	}
	within := time.Duration(req.WithinSeconds) * time.Second
	if within < 0 || within > mostToApprove {
		return nil, h.coded(connect.CodeInvalidArgument, fmt.Errorf("%w: approvers have %s to sign it, want at most %s", quarantine.ErrDraft, within, mostToApprove))
	}
	var digests [][32]byte
	for _, e := range c.Evidence {
		digests = append(digests, e.Digest)
	}
	now := time.Now()
	d, err := h.authority.Draft(now, c.Accused, digests, now.Add(within+probation), req.Reason, req.Again)
	if err != nil {
		return nil, h.unsigned(err)
	}
	if !req.Draft {
		return h.decide(ctx, d)
	}
	b, err := d.Encode()
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	if err := h.admin(ctx, "draft-release", map[string]any{"accused": c.Accused.String(), "reason": req.Reason, "again": req.Again}); err != nil {
		return nil, err
	}
	return &controlv1.ReleaseResponse{View: h.view(ctx), Standing: c.Status.Standing.String(), Draft: b, Id: c.Accused.String()}, nil
}

// releaseApproved decides on a draft that comes back from the region's approvers.
func (h handler) releaseApproved(ctx context.Context, draft []byte) (*controlv1.ReleaseResponse, error) {
	d, err := authority.ParseDraft(draft)
	if err != nil {
		return nil, h.coded(connect.CodeInvalidArgument, err)
	}
	if _, err := h.releasable(d.Release.Accused.String()); err != nil {
		return nil, err
	}
	return h.decide(ctx, d)
}

// decide puts a draft in force.
func (h handler) decide(ctx context.Context, d authority.Draft) (*controlv1.ReleaseResponse, error) {
	r := d.Release
	if err := h.admin(ctx, "release", map[string]any{"accused": r.Accused.String(), "reason": r.Reason, "again": r.Again}); err != nil {
		return nil, err
	}
	signed, err := h.authority.Decide(time.Now(), d)
	if err != nil {
		return nil, h.unsigned(err)
	}
	h.onObject(signed.Raw)
	return &controlv1.ReleaseResponse{View: h.view(ctx), Standing: h.standing.of(r.Accused).Standing.String(), Id: r.Accused.String()}, nil
}

// releasable finds whom a release would let back in.
func (h handler) releasable(id string) (quarantine.Case, error) {
	c, err := h.decidable(id)
	if err != nil {
		return c, err
	}
	switch c.Status.Standing {
	case quarantine.Quarantined:
		return c, nil
	case quarantine.Revoked:
		return c, h.coded(connect.CodeFailedPrecondition, fmt.Errorf("%w: %s", authority.ErrRevoked, c.Accused))
	}
	return c, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%s is %s already: another release would only end its epoch", c.Accused, c.Status.Standing))
}

// Revoke ends a node's identity for good, where this node is the authority.
func (h handler) Revoke(ctx context.Context, req *controlv1.RevokeRequest) (*controlv1.RevokeResponse, error) {
	c, err := h.decidable(req.Id)
	if err != nil {
		return nil, err
	}
	if err := h.admin(ctx, "revoke", map[string]any{"accused": c.Accused.String(), "reason": req.Reason}); err != nil {
		return nil, err
	}
	signed, err := h.authority.Revoke(time.Now(), c.Accused, req.Reason)
	if err != nil {
		return nil, h.unsigned(err)
	}
	h.onObject(signed.Raw)
	return &controlv1.RevokeResponse{View: h.view(ctx), Standing: h.standing.of(c.Accused).Standing.String(), Id: c.Accused.String()}, nil
}

// decidable finds what an authority is asked to decide on, by a case or by the SPIFFE ID of a
// node that is known here. The error says whom to ask where this node is not the authority.
func (h handler) decidable(id string) (quarantine.Case, error) {
	if h.authority == nil {
		return quarantine.Case{}, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("this node is not the region's authority: ask %s", h.lease.master()))
	}
	node, err := spiffeid.FromString(id)
	if err != nil {
		return h.find(id)
	}
	c, known := h.standing.set.Case(node, time.Now())
	if _, met := h.dir.node(node); !known && !met {
		return c, connect.NewError(connect.CodeNotFound, fmt.Errorf("%w: nor is %s a node of this region", quarantine.ErrNoCase, node))
	}
	return c, nil
}

// unsigned says why the authority did not sign what it was asked to.
func (h handler) unsigned(err error) error {
	for _, refusal := range []error{authority.ErrRepeat, authority.ErrRevoked, authority.ErrOwnNode, authority.ErrForeign, authority.ErrPlace, quarantine.ErrApprovals, quarantine.ErrDraft} {
		if errors.Is(err, refusal) {
			return h.coded(connect.CodeFailedPrecondition, err)
		}
	}
	if errors.Is(err, quarantine.ErrMalformed) || errors.Is(err, quarantine.ErrSegment) {
		return h.coded(connect.CodeInvalidArgument, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

// parked finds a parked record of this node by the beginning of its ID.
func (h handler) parked(id string) (feed.ID, bool) {
	for _, p := range h.replica.Parked() {
		if len(id) >= 12 && strings.HasPrefix(p.Record.String(), id) {
			return p.Record, true
		}
	}
	return feed.ID{}, false
}

// unpark has this node apply a record that crashed it before.
func (h handler) unpark(ctx context.Context, id feed.ID, reason string) (*controlv1.ReleaseResponse, error) {
	if err := h.admin(ctx, "unpark", map[string]any{"record": id.String(), "reason": reason}); err != nil {
		return nil, err
	}
	if err := h.replica.Unpark(ctx, id); err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return &controlv1.ReleaseResponse{View: h.view(ctx), Standing: unparked}, nil
}

// unparked is said instead of a standing where what was released is a record.
const unparked = "unparked"

// probation is how long a released node has the limits of class probation.
const probation = time.Hour

// mostToApprove is how long the approvers of a release may take at most. Its probation runs on
// after that, as nobody knows before when it comes into force.
const mostToApprove = 7 * 24 * time.Hour
