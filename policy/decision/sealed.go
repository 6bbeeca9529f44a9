package decision

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Keys seal what events are about: payload.Keys.
type Keys interface {
	Seal(s payload.Scope, at time.Time, name string, b []byte) (payload.Box, error)
	opener
	Forget(before time.Time) error
}

// opener opens what was sealed: payload.Keys, or payload.Reader.
type opener interface {
	Open(b payload.Box, name string) ([]byte, error)
}

// private is the part of an event that may hold data of people, in its only form: JSON. The rest says what
// was decided, by which rule and when.
type private struct {
	RequestedBy string          `json:"requested_by,omitempty"`
	Input       json.RawMessage `json:"input,omitempty"`
	Target      string          `json:"target,omitempty"`
	Reason      string          `json:"reason,omitempty"`
	Verdicts    []string        `json:"verdicts,omitempty"` // the reason of each, where one has any
	Grants      []policy.Grant  `json:"grants,omitempty"`
	Salt        string          `json:"salt,omitempty"`
}

// scope says whose keys an event is sealed under, with what masking left of it. A local program that is no
// workload is its user: uid:1000.
func (e *Event) scope() payload.Scope {
	s := payload.Scope{Subject: e.RequestedBy, Kind: string(e.Kind())}
	if e.Kind() != policy.Replicate && e.Kind() != policy.Admin {
		return s
	}
	var in struct {
		Resource struct {
			Classes []string `json:"classes"`
		} `json:"resource"`
		Call struct {
			UID *int64 `json:"uid"`
		} `json:"call"`
	}
	if json.Unmarshal(e.Input, &in) != nil {
		return s
	}
	s.Classes = slices.Sorted(slices.Values(in.Resource.Classes))
	if s.Subject == "" && in.Call.UID != nil {
		s.Subject = fmt.Sprintf("uid:%d", *in.Call.UID)
	}
	return s
}

// seal makes the box of an event that is masked and complete. A change of policy has none: who signed
// it, and what, is what the trail is for.
func (e *Event) seal(keys Keys) error {
	e.Salt = hex.EncodeToString(payload.Salt())
	if keys == nil || e.Change != nil {
		return nil
	}
	p := private{RequestedBy: e.RequestedBy, Input: e.Input, Target: e.Result.Target, Reason: e.Result.Reason, Grants: e.Result.Grants, Salt: e.Salt}
	for i, v := range e.Result.Verdicts {
		if v.Reason != "" {
			p.Verdicts = slices.Grow(p.Verdicts, len(e.Result.Verdicts))[:len(e.Result.Verdicts)]
			p.Verdicts[i] = v.Reason
		}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	box, err := keys.Seal(e.scope(), e.Timestamp, e.DecisionID, b)
	if err != nil {
		return fmt.Errorf("decision %s: %w", e.DecisionID, err)
	}
	e.box = &box
	return nil
}

// shut is the event as it is stored: with its box in place of what is in it.
func (e *Event) shut() Event {
	out := *e
	if e.box == nil {
		return out
	}
	out.Sealed, out.RequestedBy, out.Input, out.Salt = e.box, "", nil, ""
	out.Result.Target, out.Result.Reason, out.Result.Grants = "", "", nil
	out.Result.Verdicts = slices.Clone(e.Result.Verdicts)
	for i := range out.Result.Verdicts {
		out.Result.Verdicts[i].Reason = ""
	}
	return out
}

// open takes what is in the box back into the event. What was erased, or cannot be opened here, is told by
// the reason. Errors wrap payload.ErrBox, or are those of reading keys.
func (e *Event) open(keys opener) error {
	if e.Sealed == nil {
		return nil
	}
	b, err := keys.Open(*e.Sealed, e.DecisionID)
	var erased *payload.ErasedError
	switch {
	case errors.As(err, &erased):
		e.Sealed, e.Erasure, e.Result.Reason = nil, &erased.Erasure, erased.Error()
		return nil
	case errors.Is(err, payload.ErrNoKey):
		e.Result.Reason = err.Error()
		return nil
	case err != nil:
		return err
	}
	var p private
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("%w: %s: %v", payload.ErrBox, e.DecisionID, err)
	}
	e.Sealed, e.RequestedBy, e.Input, e.Salt = nil, p.RequestedBy, p.Input, p.Salt
	e.Result.Target, e.Result.Reason, e.Result.Grants = p.Target, p.Reason, p.Grants
	for i, reason := range p.Verdicts[:min(len(p.Verdicts), len(e.Result.Verdicts))] {
		e.Result.Verdicts[i].Reason = reason
	}
	return nil
}

// Commitment is what the trail's leaf of a denial has of the event's input: payload.Commit. ok is false
// for an event of an older version, of which the leaf has the plain digest, and for one whose payload is gone.
func (e *Event) Commitment() (c [32]byte, ok bool) {
	salt, err := hex.DecodeString(e.Salt)
	if err != nil || len(salt) != payload.SaltSize {
		return c, false
	}
	return payload.Commit(salt, e.Input), true
}
