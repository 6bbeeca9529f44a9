package governing

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// The states of a held policy on a node.
const (
	StateInForce   = "in force"
	StateWasBefore = "was in force"
	StateStopped   = "stopped" // its rollout, on this node
	StateStaged    = "staged"  // and not in force here so far
	StateHeld      = "held"
)

// stages remembers how far this node is with each staged record that it holds.
//
//	policy/rollout: name of the record [32]byte -> CBOR of stage
type stages struct{ st *store.Store }

const stageBucket = "policy/rollout"

type stage struct {
	Phase  string `cbor:"1,keyasint"`
	Since  int64  `cbor:"2,keyasint"` // Unix milliseconds
	Reason string `cbor:"3,keyasint,omitempty"`

	Enforced int64 `cbor:"4,keyasint,omitempty"` // seconds
}

func encodeStage(s rollout.State) ([]byte, error) {
	return statement.Marshal(stage{string(s.Phase), s.Since.UnixMilli(), s.Reason, int64(s.Enforced / time.Second)})
}

// of returns the state of a record; the zero State where nothing was decided yet, or where
// what is stored cannot be read: then the record is not in force.
func (s stages) of(name [32]byte) (out rollout.State) {
	_ = s.st.View(func(tx *store.Tx) error {
		var kept stage
		b := tx.Get(stageBucket, name[:])
		if b == nil || statement.Unmarshal(slices.Clone(b), &kept) != nil {
			return nil
		}
		out = rollout.State{Phase: rollout.Phase(kept.Phase), Since: time.UnixMilli(kept.Since).UTC(), Reason: kept.Reason, Enforced: time.Duration(kept.Enforced) * time.Second}
		return nil
	})
	return out
}

// keep makes a state durable, with its leaf in the trail, and forgets records that are not
// held any more.
func (s stages) keep(r *bundle.Record, name [32]byte, state rollout.State, ring string, held []bundle.Kept) error {
	b, err := encodeStage(state)
	if err != nil {
		return err
	}
	return s.st.Update(func(tx *store.Tx) error {
		var old [][]byte
		tx.Range(stageBucket, nil, func(k, _ []byte) bool {
			if !slices.ContainsFunc(held, func(h bundle.Kept) bool { return string(h.Name[:]) == string(k) }) {
				old = append(old, slices.Clone(k))
			}
			return true
		})
		for _, k := range old {
			if err := tx.Delete(stageBucket, k); err != nil {
				return err
			}
		}
		if err := tx.Put(stageBucket, name[:], b); err != nil {
			return err
		}
		return trail.Append(tx, trail.PolicyRollout, map[string]any{
			"level": r.Level, "scope": r.Scope, "version": r.Version, "record": name[:], "phase": string(state.Phase), "ring": ring, "reason": state.Reason,
		})
	})
}

// put writes a state down in the same phase.
func (s stages) put(name [32]byte, state rollout.State) error {
	b, err := encodeStage(state)
	if err != nil {
		return err
	}
	return s.st.Update(func(tx *store.Tx) error { return tx.Put(stageBucket, name[:], b) })
}

// waits reports whether a staged record is not to be in force now, beside the one before.
func (p *Policies) waits(v *bundle.Verified, before *bundle.Verified) bool {
	return v.Record.Rollout != nil && before != nil && before.Name != v.Name && p.stages.of(v.Name).Phase != rollout.Enforcing
}

// Enforced reports whether a record was put in force when it came, or ring by ring, and not stopped.
func (p *Policies) Enforced(r *bundle.Record, name [32]byte) bool {
	return r.Mode == bundle.Enforce && (r.Rollout == nil || p.stages.of(name).Phase == rollout.Enforcing)
}

// pins are the records that newer ones do not push out: those in force and, to go back to, of each
// scope the newest two of different content that were enforced.
func (p *Policies) pins() map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for _, v := range p.InForce() {
		out[v.Name] = true
	}
	contents := map[string][][32]byte{}
	for _, k := range p.Kept() {
		slot := k.Record.Level + " " + k.Record.Scope
		if seen := contents[slot]; len(seen) < 2 && !slices.Contains(seen, k.Record.Digest) && p.Enforced(&k.Record, k.Name) {
			contents[slot], out[k.Name] = append(seen, k.Record.Digest), true
		}
	}
	return out
}

// StateOf is what a held record is to this node, and why.
func (p *Policies) StateOf(k bundle.Kept) (state, reason string) {
	own := p.Own(k.Record.Level, k.Record.Scope)
	current := p.current(k.Record.Level)
	switch {
	case k.Record.Mode != bundle.Enforce:
	case own && current != nil && current.Name == k.Name:
		return StateInForce, ""
	case !p.Enforced(&k.Record, k.Name):
		if now := p.stages.of(k.Name); now.Phase == rollout.Stopped {
			return StateStopped, now.Reason
		}
		return StateStaged, "it was never in force here"
	case own && current != nil && k.Record.Version < current.Record.Version:
		return StateWasBefore, ""
	}
	return StateHeld, ""
}

// before is the newest of older records that was in force, or nil: not one that waited when the
// next came, or was stopped.
func (p *Policies) before(older []*bundle.Verified) *bundle.Verified {
	for _, v := range older {
		if p.Enforced(&v.Record, v.Name) {
			return v
		}
	}
	return nil
}

// current is the record in force at a level, or nil.
func (p *Policies) current(level string) *bundle.Verified { return versionIn(p.InForce(), level) }

// move takes a staged record to another phase: durable, and in the trail, before it is in
// force or taken back. use is what is in force then; nil: what is.
func (p *Policies) move(k bundle.Kept, state rollout.State, ring string, use *bundle.Verified) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if newest, ok := p.Newest(k.Record.Level, k.Record.Scope); !ok || newest.Name != k.Name {
		return nil // a newer one came meanwhile
	}
	if err := p.stages.keep(&k.Record, k.Name, state, ring, p.Kept()); err != nil {
		return storeError{err}
	}
	if use == nil {
		return nil
	}
	why := decision.Promoted
	if state.Phase == rollout.Stopped {
		why = decision.Reverted
	}
	if err := p.install([]*bundle.Verified{use}, why, state.Reason, false, time.Now()); err != nil {
		return fmt.Errorf("%s: %w", use.Record.String(), err)
	}
	return nil
}

// enforce puts a held record in force that others enforce and its own rings never reached here. One that
// does not compile is stopped. Errors are the store's.
func (p *Policies) enforce(k bundle.Kept, v *bundle.Verified, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	state, ring := rollout.State{Phase: rollout.Enforcing, Since: now}, k.Record.Rollout.Name(len(k.Record.Rollout.Rings))
	if err := p.stages.keep(&k.Record, k.Name, state, ring, p.Kept()); err != nil {
		return err
	}
	err := p.install([]*bundle.Verified{v}, decision.Promoted, "others enforce it", false, now)
	if e := (storeError{}); err == nil || errors.As(err, &e) {
		return err
	}
	p.log.Error("what others enforce cannot be put in force here", "policy", k.Record.String(), "err", err)
	return p.stages.keep(&k.Record, k.Name, rollout.State{Phase: rollout.Stopped, Since: now, Reason: err.Error()}, ring, p.Kept())
}

// staged names the held records that were never in force here.
func (p *Policies) staged() map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for _, k := range p.Kept() {
		if k.Record.Mode == bundle.Enforce && !p.Enforced(&k.Record, k.Name) {
			out[k.Name] = true
		}
	}
	return out
}

// Newest is the newest enforced record that is held of a scope.
func (p *Policies) Newest(level, scope string) (bundle.Kept, bool) {
	for _, k := range p.Kept() {
		if k.Record.Level == level && k.Record.Scope == scope && k.Record.Mode == bundle.Enforce {
			return k, true
		}
	}
	return bundle.Kept{}, false
}
