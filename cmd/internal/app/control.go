package app

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
	"github.com/bailiwick-mesh/bailiwick/policy/why"
)

// handler is the node behind the control API. Policy decides each call (admin.go);
// what changes something is written to the trail first.
type handler struct{ *App }

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
	if c.Tally.Class != "" || len(c.Tally.Charges) > 0 || c.Doubt != "" {
		return quarantine.AccusationName(c.Accused)[:12]
	}
	return "-"
}

func (h handler) caseMessage(c quarantine.Case) *controlv1.Case {
	m := &controlv1.Case{
		Id: caseID(c), Accused: c.Accused.String(), Standing: c.Status.Standing.String(), Reason: c.Status.Reason,
		Since: timestamppb.New(c.Status.Since), Capped: h.standing.set.Effects(c.Accused, time.Now(), h.roster()).Capped,
	}
	m.Class = cmp.Or(c.Tally.Class, c.Doubt)
	for _, charge := range c.Tally.Charges {
		m.Class = cmp.Or(m.Class, charge.Class)
		if len(c.Evidence) == 0 && charge.Counts {
			m.Observers = append(m.Observers, charge.Accuser.String())
		}
	}
	for _, e := range c.Evidence {
		m.Class = e.Class
		m.EvidenceBytes += uint32(len(e.Bytes))
		for _, by := range e.By {
			m.Observers = append(m.Observers, by.String())
		}
	}
	if was, ok := h.standing.lastCut(c.Accused); ok {
		m.Cut, m.Severed = timestamppb.New(was.At.Add(was.Took)), was.String()
	}
	h.appeals().show(c, m)
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
		if name := caseID(c); len(c.Evidence) == 0 && len(id) >= 4 && len(name) > 1 && strings.HasPrefix(name, id) {
			return c, nil
		}
		for _, e := range c.Evidence {
			if len(id) >= 4 && strings.HasPrefix(hex.EncodeToString(e.Digest[:]), id) {
				return c, nil
			}
		}
	}
	return quarantine.Case{}, connect.NewError(connect.CodeNotFound, fmt.Errorf("%w: %q (give at least four digits)", quarantine.ErrNoCase, id))
}

// explainTime bounds the search for the smallest change that turns a decision round.
const explainTime = 3 * time.Second

// Why returns a recorded decision and explains it.
func (h handler) Why(ctx context.Context, req *controlv1.WhyRequest) (*controlv1.WhyResponse, error) {
	get := func() (decision.Event, error) { return h.decisions.Get(req.Id) }
	if req.Id == "" || req.Id == "last" {
		get = h.decisions.Last
	} else if _, err := decision.Prefix(req.Id); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	e, err := get()
	switch {
	case errors.Is(err, decision.ErrNotFound):
		return nil, h.coded(connect.CodeNotFound, err)
	case errors.Is(err, decision.ErrAmbiguous):
		return nil, h.coded(connect.CodeInvalidArgument, err)
	case err != nil:
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	resp := &controlv1.WhyResponse{View: h.view(ctx), Decision: control.DecisionMessage(e.Decision())}
	if b, err := json.Marshal(e); err == nil {
		resp.EventJson = string(b)
	}
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	x, err := why.Explain(ctx, h.engine.Aside(), e)
	if err != nil && !x.Flip.Found && x.Rule == "" {
		resp.Unexplained = err.Error()
		return resp, nil
	}
	if b, err := json.Marshal(x); err == nil {
		resp.ExplanationJson = string(b)
	}
	return resp, nil
}

// SealDecisions writes what was decided until now into a segment, and all leaves under a head: somebody
// is about to read the files.
func (h handler) SealDecisions(ctx context.Context, _ *controlv1.SealDecisionsRequest) (*controlv1.SealDecisionsResponse, error) {
	if err := h.decisions.Rotate(); err != nil {
		return nil, h.coded(connect.CodeUnavailable, err)
	}
	if t := h.trail.current(); t != nil {
		if err := t.Flush(ctx); err != nil {
			return nil, h.coded(connect.CodeUnavailable, err)
		}
	}
	dir, err := filepath.Abs(decisionsDir(h.cfg))
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return &controlv1.SealDecisionsResponse{View: h.view(ctx), Dir: dir}, nil
}

// refusedBy finds the name of the rule in what an issuer answers.
var refusedBy = regexp.MustCompile(`(?:by check|rule) ([a-z0-9][a-z0-9-]*)`)

// Attest runs this node's attestation now.
func (h handler) Attest(ctx context.Context, _ *controlv1.AttestRequest) (*controlv1.AttestResponse, error) {
	if err := h.admin(ctx, "attest", map[string]any{}); err != nil {
		return nil, err
	}
	err := h.creds.Attest(ctx)
	resp := &controlv1.AttestResponse{View: h.view(ctx), Ok: err == nil}
	if err != nil {
		resp.Detail = err.Error()
		if m := refusedBy.FindStringSubmatch(resp.Detail); m != nil {
			resp.Rule = m[1]
		}
	}
	if n := h.creds.Now().Node; n != nil {
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
	if err := h.admin(ctx, "partition", map[string]any{"trust_domain": td.Name(), "refuse": req.Refuse}); err != nil {
		return nil, err
	}
	if err := h.partition.set(td, req.Refuse); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return &controlv1.PartitionResponse{View: h.view(ctx)}, nil
}
