package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
)

// StartShadow compares with a candidate from now on. Nothing of it is enforced, so nobody
// has to have signed it.
func (h handler) StartShadow(ctx context.Context, req *controlv1.StartShadowRequest) (*controlv1.ShadowResponse, error) {
	if td := req.TrustDomain; td != "" && td != h.cfg.Node.TrustDomain().Name() {
		return nil, h.shadowError(fmt.Errorf("%w: it is for %s", governing.ErrShadow, td))
	}
	c := governing.Candidate{Started: time.Now().Unix(), File: req.File}
	digests := [][]byte{}
	for _, l := range req.Levels {
		c.Levels = append(c.Levels, governing.CandidateLevel{Level: l.Level, Content: l.Content})
		digest := statement.Digest(l.Content)
		digests = append(digests, digest[:])
	}
	if len(req.File) > 0 {
		digest := statement.Digest(req.File)
		digests = append(digests, digest[:])
	}
	if err := h.admin(ctx, "policy shadow start", map[string]any{"digests": digests}); err != nil {
		return nil, err
	}
	if err := h.shadowing.Start(c); err != nil {
		return nil, h.shadowError(err)
	}
	return h.shadowResponse(ctx)
}

// GetShadow reports what was found so far and, if asked to, returns the candidate.
func (h handler) GetShadow(ctx context.Context, req *controlv1.GetShadowRequest) (*controlv1.ShadowResponse, error) {
	resp, err := h.shadowResponse(ctx)
	if c := h.shadowing.Given(); err == nil && c != nil && req.Candidate {
		resp.File = c.File
		for _, l := range c.Levels {
			resp.Levels = append(resp.Levels, &controlv1.ShadowLevel{Level: l.Level, Content: l.Content})
		}
	}
	return resp, err
}

// StopShadow forgets the candidate, and returns what was found until then.
func (h handler) StopShadow(ctx context.Context, _ *controlv1.StopShadowRequest) (*controlv1.ShadowResponse, error) {
	resp, err := h.shadowResponse(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.admin(ctx, "policy shadow stop", map[string]any{"compared": resp.Shadow.Compared, "different": resp.Shadow.Different}); err != nil {
		return nil, err
	}
	if err := h.shadowing.Stop(); err != nil {
		return nil, h.shadowError(err)
	}
	return resp, nil
}

func (h handler) shadowError(err error) error {
	switch {
	case errors.Is(err, governing.ErrNoShadow):
		return h.coded(connect.CodeFailedPrecondition, err)
	case errors.Is(err, store.ErrBroken):
		return h.coded(connect.CodeUnavailable, err)
	}
	return h.coded(connect.CodeInvalidArgument, err)
}

func (h handler) shadowResponse(ctx context.Context) (*controlv1.ShadowResponse, error) {
	m, r := h.shadowStatus()
	if m == nil {
		return nil, h.shadowError(governing.ErrNoShadow)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("the report: %w", err))
	}
	return &controlv1.ShadowResponse{View: h.view(ctx), Shadow: m, ReportJson: string(b)}, nil
}

// shadowStatus is nil where there is no candidate.
func (a *App) shadowStatus() (*controlv1.ShadowStatus, shadow.Report) {
	c := a.shadowing.Given()
	if c == nil {
		return nil, shadow.Report{}
	}
	r, running := a.shadowing.Report()
	if !running {
		r.Ended = "the candidate does not compile beside the policy in force any more"
	}
	return &controlv1.ShadowStatus{
		Candidate: r.Candidate, Against: r.Against, Started: timestamppb.New(c.Since()), Since: timestamppb.New(r.Since), Ended: r.Ended, Signed: len(c.File) > 0,
		Compared: r.Compared, Different: r.Different, Dropped: r.Dropped, PassedOver: r.PassedOver,
	}, r
}
