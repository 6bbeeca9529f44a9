package app

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// rollbackTimeout bounds how long what the authority says waits for this node's feed store.
const rollbackTimeout = 5 * time.Second

// rollback makes true what the region's authority said last of an origin's history. The origin
// itself goes on in a new epoch, which begins with what it then sees.
func (a *App) rollback(name string) error {
	s, ok := a.ownBook().Get(authority.KindRollback, name)
	if !ok {
		return nil // another region's: its nodes apply it
	}
	r, err := s.Rollback()
	if err != nil {
		return err
	}
	var spans []replica.Span
	for _, s := range r.Spans {
		spans = append(spans, replica.Span{After: feed.Place{Epoch: s.Epoch, Seq: s.Seq}, Before: s.Before})
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	news, err := a.replica.Rollback(ctx, r.Origin, spans)
	if err != nil || !news {
		return err
	}
	a.log.Warn("the authority rolled back an origin's state", "origin", r.Origin, "spans", r.Spans, "reason", r.Reason)
	a.standing.record(r.Origin, trail.PeerRelease, map[string]any{"rollback": r.Origin.String(), "to": placesOf(r), "reason": r.Reason})
	if r.Origin == a.cfg.Node {
		for _, s := range r.Spans {
			if s.Before > a.creds.Now().InUse {
				a.creds.WantAfresh()
				break
			}
		}
	}
	return nil
}

// placesOf are the records that an origin went back to, in words.
func placesOf(r authority.Rollback) (out string) {
	for _, s := range r.Spans {
		if out != "" {
			out += ", "
		}
		out += fmt.Sprintf("record %d of epoch %d, until epoch %d", s.Seq, s.Epoch, s.Before)
	}
	return out
}

// Rollback hides what a node wrote after a record, where this node is the authority.
func (h handler) Rollback(ctx context.Context, req *controlv1.RollbackRequest) (*controlv1.RollbackResponse, error) {
	c, err := h.decidable(req.Origin)
	if err != nil {
		return nil, err
	}
	kept, err := h.replica.Kept(ctx, c.Accused)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	epoch, err := chosen(kept, req.Epoch, req.To)
	if err != nil {
		return nil, h.coded(connect.CodeFailedPrecondition, fmt.Errorf("%w: %s: %w", authority.ErrPlace, c.Accused, err))
	}
	if err := h.admin(ctx, "rollback", map[string]any{"accused": c.Accused.String(), "epoch": epoch, "to": req.To, "reason": req.Reason}); err != nil {
		return nil, err
	}
	signed, err := h.authority.Rollback(time.Now(), c.Accused, epoch, req.To, req.Reason)
	if err != nil {
		return nil, h.unsigned(err)
	}
	h.onObject(signed.Raw)
	return &controlv1.RollbackResponse{View: h.view(ctx), Origin: c.Accused.String(), Epoch: epoch}, nil
}

// chosen is the epoch to go back in: the one asked for, or the newest (0), if it has the record and
// something after it.
func chosen(kept []replica.Kept, epoch, to uint64) (uint64, error) {
	for i := len(kept) - 1; i >= 0; i-- {
		k := kept[i]
		if epoch != 0 && k.Epoch != epoch {
			continue
		}
		if to+1 < k.From || to > k.To || to == k.To && i == len(kept)-1 {
			return 0, fmt.Errorf("of epoch %d records %d to %d are held here, and something must come after the one to go back to; older ones are superseded by a snapshot", k.Epoch, k.From, k.To)
		}
		return k.Epoch, nil
	}
	return 0, fmt.Errorf("no record of it is held here, or none of epoch %d", epoch)
}
