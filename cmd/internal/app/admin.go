package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// ErrAdmin means that policy does not let the caller make this call.
var ErrAdmin = errors.New("policy does not let this program make this call")

// Calls by what they do. Those of stateReads and stateWrites are programs' own, of the state API:
// there are many, and each record that a write makes is in the trail.
var (
	reads = []string{
		"Status", "ListCases", "ShowCase", "Why", "SealDecisions", "ListAttestations", "ListEntries", "ListTrust", "ExportTrust",
		"ListPolicies", "Reach", "GetShadow",
	}
	stateReads  = []string{"Get", "List", "Read", "ReadAll", "Follow", "Watch"}
	stateWrites = []string{"Put", "Delete", "Change"}
)

// eachDecision reports whether an allow is recorded whole: that of every call of an operator,
// also of one that only reads. Those of the state API are counted, and sampled.
func eachDecision(d policy.Decision) bool {
	name, _, _ := strings.Cut(d.Target, " ")
	return d.Kind == policy.Admin && !slices.Contains(stateReads, name) && !slices.Contains(stateWrites, name)
}

// admitted is a call that policy let through, on its way to the handler.
type admitted struct {
	decision policy.Decision
	call     policy.Call
	keep     func(*store.Tx) error // of the decision; may be nil
	recorded atomic.Bool
}

type admittedKey struct{}

// admits is the control API's Decide.
func (h handler) admits(ctx context.Context, c control.Call) (context.Context, error) {
	in := policy.Input{
		V: policy.InputVersion, Kind: policy.Admin, Time: policy.Time{Unix: time.Now().Unix(), Trusted: true},
		Self: h.subjects.node(h.cfg.Node),
		Call: &policy.Call{API: c.API, Name: c.Name, Key: c.Key},
	}
	if c.API == "state" {
		in.Call.Key = h.keyOf(c)
	}
	in.Source = h.calledBy(in.Call, c.From)
	if slices.Contains(reads, c.Name) || slices.Contains(stateReads, c.Name) {
		d := h.decisions.Decide(ctx, in)
		if d.Rule == decision.RuleNotRecorded && c.Name == "Status" {
			// Policy lets the caller; and whoever can mend the disk must be told what is wrong with it.
			h.trail.gap(1, "the status was shown, which could not be recorded")
			return ctx, nil
		}
		return ctx, h.refusal(d, in.Call)
	}
	d, keep := h.decisions.DecideWithin(ctx, in)
	if err := h.refusal(d, in.Call); err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, admittedKey{}, &admitted{decision: d, call: *in.Call, keep: keep}), nil
}

// keyOf spells what a call is about in one way, whichever way its caller chose: a key or prefix
// of the node's own trust domain as its path, the name of a key that the call writes as that key.
// A name that is read over all its owners stays one.
func (h handler) keyOf(c control.Call) string {
	if path, ok := strings.CutPrefix(c.Key, h.cfg.Node.TrustDomain().IDString()); ok && strings.HasPrefix(path, "/") {
		return path
	}
	if c.Key != "" && slices.Contains([]string{"Get", "Put", "Delete", "Change"}, c.Name) {
		return stateAPI{h}.ownKey(c.Key)
	}
	return c.Key
}

// calledBy says in a call whose it is, and returns which workload that is, if any.
func (a *App) calledBy(c *policy.Call, from *local.Caller) *policy.Peer {
	c.UID, c.GID = from.User()
	c.Owner = c.UID == 0 || c.UID == int64(os.Geteuid())
	if found := a.creds.Now().Identities(from.Shows); len(found) > 0 {
		return a.subjects.workload(found[0].SVID.ID, a.cfg.Node)
	}
	return nil
}

func (h handler) refusal(d policy.Decision, c *policy.Call) error {
	if d.Allow {
		return nil
	}
	return h.coded(connect.CodePermissionDenied, fmt.Errorf("%w: %s by uid %d: %s (rule %s; bailiwick why %s)", ErrAdmin, c.Name, c.UID, d.Told(), d.Rule, d.ID[:12]))
}

// admin records that a call which policy let through is about to have its effect: the decision and
// a leaf of the trail in one transaction. Not recorded, not done.
func (h handler) admin(ctx context.Context, what string, body map[string]any) error {
	err := h.store.Update(func(tx *store.Tx) error { return adminLeaf(ctx, tx, what, body) })
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("not recorded, not done: %w", err))
	}
	return nil
}

// adminLeaf is admin within a transaction.
func adminLeaf(ctx context.Context, tx *store.Tx, what string, body map[string]any) error {
	body["action"] = what
	if a, ok := ctx.Value(admittedKey{}).(*admitted); ok {
		body["uid"], body["rule"], body["decision"], body["policy"] = a.call.UID, a.decision.Rule, a.decision.ID, a.decision.Revision
		if a.decision.Source != "" {
			body["caller"] = a.decision.Source
		}
		if a.keep != nil && a.recorded.CompareAndSwap(false, true) {
			if err := a.keep(tx); err != nil {
				return err
			}
		}
	}
	return trail.Append(tx, trail.AdminAction, body)
}
