package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// ErasePayloads destroys the keys of what recorded decisions were about. Who asked, and why, is in the trail
// first.
func (h handler) ErasePayloads(ctx context.Context, req *controlv1.ErasePayloadsRequest) (*controlv1.ErasePayloadsResponse, error) {
	o := payload.Order{Subject: req.Subject, Class: req.Class, Reason: req.Reason, By: callerName(ctx)}
	if req.Before != "" {
		day, err := time.Parse(time.DateOnly, req.Before)
		if err != nil {
			return nil, h.coded(connect.CodeInvalidArgument, fmt.Errorf("%w: before %q: want a day, such as 2026-11-21", payload.ErrOrder, req.Before))
		}
		o.Before = day
	}
	if err := o.Check(); err != nil {
		return nil, h.coded(connect.CodeInvalidArgument, err)
	}
	if req.Preview {
		keys, days := h.payloads.Count(o)
		return &controlv1.ErasePayloadsResponse{View: h.view(ctx), Keys: uint32(keys), Days: uint32(days)}, nil
	}
	if hold := h.cfg.Trail.Hold; hold != "" {
		return nil, h.coded(connect.CodeFailedPrecondition, fmt.Errorf("%w: %s", payload.ErrHeld, hold))
	}
	o, err := h.payloads.Erase(o, time.Now(), func(tx *store.Tx, o payload.Order) error {
		body := map[string]any{"erasure": o.ID, "reason": o.Reason, "keys": o.Keys}
		return errors.Join(adminLeaf(ctx, tx, "erase", body), trail.Append(tx, trail.PayloadErase, o))
	})
	if err != nil {
		return nil, h.coded(connect.CodeUnavailable, err)
	}
	return &controlv1.ErasePayloadsResponse{View: h.view(ctx), Erasure: o.ID, Keys: uint32(o.Keys)}, nil
}

// keepPayloads destroys the keys of payloads that are older than they are to be kept.
func (a *App) keepPayloads(ctx context.Context) error {
	if a.cfg.Trail.Hold != "" {
		return nil
	}
	for {
		for _, o := range expired(a.cfg.Trail.Payloads, time.Now()) {
			done, err := a.payloads.Erase(o, time.Now(), func(tx *store.Tx, o payload.Order) error { return trail.Append(tx, trail.PayloadErase, o) })
			switch {
			case err != nil:
				a.log.Warn("payloads that are too old could not be erased", "kind", o.Kind, "err", err)
			case done.Keys > 0:
				a.log.Info("payloads were erased by age", "kind", o.Kind, "before", done.Day, "keys", done.Keys)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pruneEvery):
		}
	}
}

// expired are the orders that follow from how long payloads are kept.
func expired(rules []config.PayloadRetention, now time.Time) (out []payload.Order) {
	today := now.UTC().Truncate(24 * time.Hour)
	for _, r := range rules {
		for _, kind := range r.Kinds {
			out = append(out, payload.Order{Kind: string(kind), Before: today.Add(-r.For.Duration()), By: "retention",
				Reason: fmt.Sprintf("kept for %d days", r.For)})
		}
	}
	return out
}

// callerName is who makes a call, in words: its workload's identity, or its user.
func callerName(ctx context.Context) string {
	a, ok := ctx.Value(admittedKey{}).(*admitted)
	switch {
	case !ok:
		return "this node"
	case a.decision.Source != "":
		return a.decision.Source
	}
	return fmt.Sprintf("uid %d", a.call.UID)
}
