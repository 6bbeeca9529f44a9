package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// The states of a signed policy that a node does not hold; see package governing for those that it does.
const (
	policyWaiting = "waiting"
	policyRefused = "refused"
)

// ErrPolicyScope means a policy was handed to a node that has no use for it and would
// bring it to nobody.
var ErrPolicyScope = errors.New("the policy is for another region: hand it to a node there")

func policyMessage(r *bundle.Record, state, reason string) *controlv1.SignedPolicy {
	return &controlv1.SignedPolicy{
		Level: r.Level, Scope: r.Scope, Version: r.Version, Mode: r.Mode, State: state, Reason: reason,
		Digest: hex.EncodeToString(r.Digest[:]), Size: r.Size, Author: r.Author, Change: r.Change,
		NotBefore: timestamppb.New(time.Unix(r.NotBefore, 0)), NotAfter: timestamppb.New(time.Unix(r.NotAfter, 0)),
		StaleMode: r.StaleMode, MaxStalenessSeconds: float64(r.MaxStaleness),
	}
}

// ListPolicies tells what this node holds, and what is in force on the nodes of its region.
func (h handler) ListPolicies(ctx context.Context, req *controlv1.ListPoliciesRequest) (*controlv1.ListPoliciesResponse, error) {
	resp := &controlv1.ListPoliciesResponse{View: h.view(ctx)}
	for _, k := range h.policies.Kept() {
		r := &k.Record
		if req.Level != "" && (r.Level != req.Level || r.Scope != req.Scope) {
			continue
		}
		state, reason := h.policies.StateOf(k)
		m := policyMessage(r, state, reason)
		if req.Files {
			content, err := h.policies.Book().Content(r.Level, r.Scope, r.Version)
			if err == nil {
				m.File, err = bundle.Join(k.Statement, content)
			}
			if err != nil {
				return nil, connect.NewError(connect.CodeInternal, err)
			}
		}
		resp.Items = append(resp.Items, m)
	}
	resp.Items = append(append(resp.Items, h.policiesWaiting()...), h.policiesRefused()...)
	for _, n := range h.nodePolicies(time.Now()) {
		resp.Nodes = append(resp.Nodes, n.message())
	}
	return resp, nil
}

func (a *App) policiesWaiting() (out []*controlv1.SignedPolicy) {
	for _, r := range a.desk.Waiting() {
		reason := "its content is being fetched"
		if from := time.Unix(r.NotBefore, 0); time.Now().Before(from) {
			reason = "it is valid from " + from.UTC().Format(time.RFC3339)
		}
		out = append(out, policyMessage(&r, policyWaiting, reason))
	}
	return out
}

func (a *App) policiesRefused() (out []*controlv1.SignedPolicy) {
	for _, r := range a.refusedPolicies() {
		out = append(out, policyMessage(&r.Record, policyRefused, r.Err.Error()))
	}
	return out
}

func (n nodePolicy) message() *controlv1.NodePolicy {
	m := &controlv1.NodePolicy{SpiffeId: n.id.String(), Revision: n.said.Revision}
	for _, g := range n.gaps {
		m.Gaps = append(m.Gaps, g.String())
	}
	for _, r := range n.said.Refused {
		m.Refused = append(m.Refused, fmt.Sprintf("%s %s version %d: %s", r.Level, r.Scope, r.Version, r.Reason))
	}
	return m
}

// PublishPolicy takes a signed policy from an operator: who signed it decides whether it
// counts.
func (h handler) PublishPolicy(ctx context.Context, req *controlv1.PublishPolicyRequest) (*controlv1.PublishPolicyResponse, error) {
	v, err := h.policies.VerifyFile(req.File)
	if err != nil {
		return nil, h.coded(connect.CodePermissionDenied, err)
	}
	r := &v.Record
	switch {
	case r.Level != policy.Global && domainOf(r.Scope) != h.cfg.Node.TrustDomain().Name():
		return nil, h.coded(connect.CodeFailedPrecondition, fmt.Errorf("%w: %s", ErrPolicyScope, r))
	case len(v.Statement()) > feed.MaxValue:
		return nil, h.coded(connect.CodeInvalidArgument, fmt.Errorf("%w: the signed record has %d bytes, at most %d travel: shorten its delegations", bundle.ErrTooLarge, len(v.Statement()), feed.MaxValue))
	case r.Travels() != nil:
		return nil, h.coded(connect.CodeInvalidArgument, r.Travels())
	}
	if err := h.admin(ctx, "policy publish", map[string]any{"level": r.Level, "scope": r.Scope, "version": r.Version, "record": v.Name[:]}); err != nil {
		return nil, err
	}
	before, news := h.engine.Revision(), false
	if news, err = h.policies.Book().Judge(v); err == nil {
		var refused error
		if refused, err = h.policies.Take(v, true); refused != nil {
			return nil, h.coded(connect.CodeFailedPrecondition, refused)
		}
	}
	if err != nil {
		return nil, h.coded(connect.CodeFailedPrecondition, err)
	}
	h.policyTaken(before)
	state := governing.StateHeld
	if h.policies.Enforces(v) {
		state = governing.StateInForce
	}
	return &controlv1.PublishPolicyResponse{View: h.view(ctx), Policy: policyMessage(r, state, ""), Changed: news}, nil
}

func rolloutMessage(x governing.Rolled) *controlv1.Rollout {
	r := &x.Record.Record
	return &controlv1.Rollout{
		Level: r.Level, Scope: r.Scope, Version: r.Version, Ring: r.Rollout.Name(x.Outlook.Ring), Phase: string(x.Outlook.State.Phase),
		Since: timestamppb.New(x.Outlook.State.Since), Reason: x.Outlook.State.Reason, Waits: x.Outlook.Waits,
		Compared: x.Measured.Compared, Denied: x.Measured.Denied, Failed: x.Measured.Failed,
	}
}
