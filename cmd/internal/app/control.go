package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// handler is the node behind the control API. Whoever reaches the socket may
// call all of it; what changes something is written to the trail first.
type handler struct{ *App }

func (h handler) admin(what string, body map[string]any) error {
	body["action"] = what
	if err := h.leaf(trail.AdminAction, body); err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("not recorded, not done: %w", err))
	}
	return nil
}

// ListState lists signed state by prefix.
func (h handler) ListState(ctx context.Context, req *controlv1.ListStateRequest) (*controlv1.ListStateResponse, error) {
	entries, _ := h.replica.List(req.Prefix)
	resp := &controlv1.ListStateResponse{View: h.view(ctx)}
	for _, e := range entries {
		resp.Items = append(resp.Items, &controlv1.StateItem{
			Key: e.Key, Value: e.Value, Owner: e.Owner.String(), Epoch: e.Epoch, Seq: e.Seq,
			At: timestamppb.New(e.HLC.Time()), Lease: e.Lease.String(), Suspect: e.Suspect,
			Scope: e.Scope.String(), AgeSeconds: max(0, time.Since(e.HLC.Time()).Seconds()),
		})
	}
	return resp, nil
}

// PutState writes one own key.
func (h handler) PutState(ctx context.Context, req *controlv1.PutStateRequest) (*controlv1.PutStateResponse, error) {
	scope, ok := map[string]feed.Scope{"": feed.ScopeRegion, "zone": feed.ScopeZone, "region": feed.ScopeRegion, "global": feed.ScopeGlobal}[req.Scope]
	if !ok {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("scope %q: want zone, region or global", req.Scope))
	}
	if err := h.mayWrite(req.Key); err != nil {
		return nil, err
	}
	if err := h.admin("put", map[string]any{"key": req.Key, "bytes": len(req.Value)}); err != nil {
		return nil, err
	}
	got, err := h.replica.Put(ctx, feed.Op{Key: req.Key, Action: feed.Put, Value: req.Value, Scope: scope})
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return &controlv1.PutStateResponse{View: h.view(ctx), Epoch: got.Epoch, Seq: got.Seq}, nil
}

// DeleteState removes one own key.
func (h handler) DeleteState(ctx context.Context, req *controlv1.DeleteStateRequest) (*controlv1.DeleteStateResponse, error) {
	if err := h.mayWrite(req.Key); err != nil {
		return nil, err
	}
	if err := h.admin("delete", map[string]any{"key": req.Key}); err != nil {
		return nil, err
	}
	got, err := h.replica.Delete(ctx, req.Key)
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return &controlv1.DeleteStateResponse{View: h.view(ctx), Epoch: got.Epoch, Seq: got.Seq}, nil
}

// mayWrite keeps callers from what the sidecar itself says of its node.
func (h handler) mayWrite(key string) error {
	k, err := feed.ParseKey(key)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	if !k.OwnedBy(h.cfg.Node) {
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%w: %s is not below %s", feed.ErrForeign, key, h.cfg.Node.Path()))
	}
	if !strings.HasPrefix(k.Kind, "x-") {
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("kind %q is the sidecar's own to write; operators' kinds begin with x-", k.Kind))
	}
	return nil
}

// caseID is how people name a case: the first digits of its newest open proof.
func caseID(c quarantine.Case) string {
	for _, e := range c.Evidence {
		if !e.Answered {
			return hex.EncodeToString(e.Digest[:6])
		}
	}
	if len(c.Evidence) > 0 {
		return hex.EncodeToString(c.Evidence[0].Digest[:6])
	}
	return "-"
}

func (h handler) caseMessage(c quarantine.Case) *controlv1.Case {
	m := &controlv1.Case{
		Id: caseID(c), Accused: c.Accused.String(), Standing: c.Status.Standing.String(), Reason: c.Status.Reason,
		Since: timestamppb.New(c.Status.Since), Capped: h.standing.set.Effects(c.Accused, time.Now(), h.roster()).Capped,
	}
	for _, e := range c.Evidence {
		m.Class = e.Class
		m.EvidenceBytes += uint32(len(e.Bytes))
		for _, by := range e.By {
			m.Observers = append(m.Observers, by.String())
		}
	}
	return m
}

// ListCases lists who is not in good standing here.
func (h handler) ListCases(ctx context.Context, _ *controlv1.ListCasesRequest) (*controlv1.ListCasesResponse, error) {
	resp := &controlv1.ListCasesResponse{View: h.view(ctx)}
	for _, c := range h.standing.set.Cases(time.Now()) {
		resp.Cases = append(resp.Cases, h.caseMessage(c))
	}
	return resp, nil
}

func (h handler) find(id string) (quarantine.Case, error) {
	for _, c := range h.standing.set.Cases(time.Now()) {
		for _, e := range c.Evidence {
			if len(id) >= 4 && strings.HasPrefix(hex.EncodeToString(e.Digest[:]), id) {
				return c, nil
			}
		}
	}
	return quarantine.Case{}, connect.NewError(connect.CodeNotFound, fmt.Errorf("%w: %q (give at least four digits)", quarantine.ErrNoCase, id))
}

// ShowCase verifies a case's evidence again.
func (h handler) ShowCase(ctx context.Context, req *controlv1.ShowCaseRequest) (*controlv1.ShowCaseResponse, error) {
	c, err := h.find(req.Id)
	if err != nil {
		return nil, err
	}
	resp := &controlv1.ShowCaseResponse{View: h.view(ctx), Case: h.caseMessage(c), Verified: true, Verdict: "the proof holds"}
	for _, e := range c.Evidence {
		resp.Evidence = e.Bytes
		resp.Story = append(resp.Story, fmt.Sprintf("%s in epoch %d, proof %x of %d bytes, first seen here %s", e.Class, e.Epoch, e.Digest[:8], len(e.Bytes), e.FirstSeen.Format(time.RFC3339Nano)))
		resp.Story = append(resp.Story, headerStory(e.Bytes)...)
		if len(e.By) == 0 || slices.Contains(e.By, h.cfg.Node) {
			resp.Story = append(resp.Story, "found by this node itself")
		}
		for _, by := range e.By {
			if by != h.cfg.Node {
				resp.Story = append(resp.Story, "carried by "+by.String())
			}
		}
		if _, err := h.standing.set.Verify(c.Accused, e.Digest); err != nil {
			resp.Verified, resp.Verdict = false, err.Error()
		}
	}
	return resp, nil
}

// headerStory tells the signed headers of a proof.
func headerStory(proof []byte) (out []string) {
	headers, err := feed.Headers(proof)
	if err != nil {
		return []string{"the headers cannot be read: " + err.Error()}
	}
	for i, s := range headers {
		out = append(out, fmt.Sprintf("header %d: epoch %d seq %d record %s prev %s at %s, %d ops", i+1, s.Epoch, s.Seq,
			s.ID().String()[:16], s.Prev.String()[:16], s.HLC.Time().UTC().Format(time.RFC3339Nano), s.Count))
	}
	return out
}

// Release lets a node back in, where this node is the authority.
func (h handler) Release(ctx context.Context, req *controlv1.ReleaseRequest) (*controlv1.ReleaseResponse, error) {
	if h.authority == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("this node is not the region's authority: ask %s", h.lease.master()))
	}
	c, err := h.find(req.Id)
	if err != nil {
		return nil, err
	}
	if err := h.admin("release", map[string]any{"accused": c.Accused.String(), "reason": req.Reason}); err != nil {
		return nil, err
	}
	var digests [][32]byte
	for _, e := range c.Evidence {
		digests = append(digests, e.Digest)
	}
	now := time.Now()
	signed, err := h.authority.Release(now, c.Accused, digests, now.Add(probation), req.Reason)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	h.onObject(signed.Raw)
	return &controlv1.ReleaseResponse{View: h.view(ctx), Standing: h.standing.of(c.Accused).Standing.String()}, nil
}

// probation is how long a released node has the limits of class probation.
const probation = time.Hour

// Why returns a recorded decision.
func (h handler) Why(ctx context.Context, req *controlv1.WhyRequest) (*controlv1.WhyResponse, error) {
	get := func() (policy.Decision, error) { return h.decisions.Get(req.Id) }
	if req.Id == "" || req.Id == "last" {
		get = h.decisions.Last
	}
	d, err := get()
	switch {
	case errors.Is(err, decision.ErrNotFound):
		return nil, connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, decision.ErrAmbiguous):
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	case err != nil:
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	m := &controlv1.Decision{
		Id: d.ID, Kind: string(d.Kind), Allow: d.Allow, Level: d.Level, Rule: d.Rule, Title: d.Title, Reason: d.Reason,
		File: d.File, Line: uint32(d.Line), Revision: d.Revision, At: timestamppb.New(d.At), InputJson: string(d.Input),
	}
	for _, v := range d.Verdicts {
		mv := &controlv1.Verdict{Level: v.Level, Verdict: string(v.Outcome)}
		for _, r := range v.Rules {
			mv.Rules = append(mv.Rules, r.ID)
		}
		m.Verdicts = append(m.Verdicts, mv)
	}
	return &controlv1.WhyResponse{View: h.view(ctx), Decision: m}, nil
}

// refusedBy finds the name of the rule in what an issuer answers.
var refusedBy = regexp.MustCompile(`(?:by check|rule) ([a-z0-9][a-z0-9-]*)`)

// Attest runs this node's attestation now.
func (h handler) Attest(ctx context.Context, _ *controlv1.AttestRequest) (*controlv1.AttestResponse, error) {
	if err := h.admin("attest", map[string]any{}); err != nil {
		return nil, err
	}
	err := h.creds.attest(ctx)
	resp := &controlv1.AttestResponse{View: h.view(ctx), Ok: err == nil}
	if err != nil {
		resp.Detail = err.Error()
		if m := refusedBy.FindStringSubmatch(resp.Detail); m != nil {
			resp.Rule = m[1]
		}
	}
	if n := h.creds.now().node; n != nil {
		resp.SvidExpires = timestamppb.New(n.Certificates[0].NotAfter)
	}
	return resp, nil
}

// Partition refuses packets of a trust domain, in dev fleets.
func (h handler) Partition(ctx context.Context, req *controlv1.PartitionRequest) (*controlv1.PartitionResponse, error) {
	if !h.cfg.Dev {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("partitions on demand are for dev fleets: set dev in the configuration of one"))
	}
	td, err := spiffeid.TrustDomainFromString(req.TrustDomain)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if err := h.admin("partition", map[string]any{"trust_domain": td.Name(), "refuse": req.Refuse}); err != nil {
		return nil, err
	}
	if err := h.partition.set(td, req.Refuse); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return &controlv1.PartitionResponse{View: h.view(ctx)}, nil
}
