package app

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// appeals keeps, at the authority, the newest of what each quarantined node has to say.
//
//	quarantine/appeals: SPIFFE ID -> quarantine.Appeal.Encode
type appeals struct {
	st *store.Store
	of func(spiffeid.ID) quarantine.Status
}

func (a *App) appeals() appeals { return appeals{a.store, a.standing.of} }

const appealBucket = "quarantine/appeals"

// take keeps an appeal with its leaf in the trail, or says why not.
func (a appeals) take(ap quarantine.Appeal) error {
	before, err := a.newest(ap.Accused)
	if err != nil {
		return err
	}
	news, err := ap.Take(before, a.of(ap.Accused))
	if err != nil || !news {
		return err
	}
	b, err := ap.Encode()
	if err != nil {
		return err
	}
	return a.st.Update(func(tx *store.Tx) error {
		if err := tx.Put(appealBucket, []byte(ap.Accused.String()), b); err != nil {
			return err
		}
		body := map[string]any{"appeal": ap.Accused.String(), "note": ap.Note, "machine": ap.EKHash[:], "starts": ap.Starts, "by": ap.By.String()}
		if ap.Unattested() {
			delete(body, "machine")
			body["unattested"] = "it has no TPM"
		}
		return trail.Append(tx, trail.PeerAppeal, body)
	})
}

// newest is what a node said last; zero where it said nothing.
func (a appeals) newest(id spiffeid.ID) (ap quarantine.Appeal, err error) {
	err = a.st.View(func(tx *store.Tx) (err error) {
		if b := tx.Get(appealBucket, []byte(id.String())); b != nil {
			ap, err = quarantine.ParseAppeal(b)
		}
		return err
	})
	return ap, err
}

// pending is the appeal in a case that waits for a decision here; zero where none does.
func (a appeals) pending(c quarantine.Case) quarantine.Appeal {
	if ap, err := a.newest(c.Accused); err == nil && ap.Pending(c.Status) {
		return ap
	}
	return quarantine.Appeal{}
}

// show adds an appeal to what is shown of a case.
func (a appeals) show(c quarantine.Case, m *controlv1.Case) {
	if ap := a.pending(c); !ap.Accused.IsZero() {
		m.Appeal, m.Appealed, m.AppealUnattested = ap.Note, timestamppb.New(ap.At), ap.Unattested()
	}
}

// story is an appeal in words, and what was proven with it.
func (a appeals) story(c quarantine.Case) []string {
	ap := a.pending(c)
	if ap.Accused.IsZero() {
		return nil
	}
	words := fmt.Sprintf("appeals since %s: %q", ap.At.Format(time.RFC3339), ap.Note)
	switch {
	case ap.Unattested() && ap.Epoch != 0:
		return []string{words, fmt.Sprintf("unattested: it has no TPM, and signed with the key of epoch %d of its feed, which is in software; nothing is known of its machine; taken by %s", ap.Epoch, ap.By)}
	case ap.Unattested():
		return []string{words, fmt.Sprintf("unattested: it has no TPM, and showed what it enrolled by; nothing is known of its machine; taken by %s", ap.By)}
	}
	return []string{words,
		fmt.Sprintf("with a fresh quote of machine %x (resets %d, starts %d, epochs spent %d), verified by %s", ap.EKHash[:8], ap.Resets, ap.Starts, ap.Epoch, ap.By)}
}

// Appeal takes this node's word to its authority, with a fresh proof of its machine, where it has a TPM.
func (h handler) Appeal(ctx context.Context, req *controlv1.AppealRequest) (*controlv1.AppealResponse, error) {
	if n := len(req.Note); n == 0 || n > quarantine.MaxNote {
		return nil, h.coded(connect.CodeInvalidArgument, fmt.Errorf("%w: a note of %d bytes, want 1 to %d", quarantine.ErrAppeal, n, quarantine.MaxNote))
	}
	if err := h.admin(ctx, "appeal", map[string]any{"note": req.Note}); err != nil {
		return nil, err
	}
	if err := h.creds.Appeal(ctx, req.Note); err != nil {
		return nil, h.coded(connect.CodeFailedPrecondition, err)
	}
	return &controlv1.AppealResponse{View: h.view(ctx)}, nil
}
