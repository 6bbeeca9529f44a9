package policy

import (
	"iter"
	"sync"
	"sync/atomic"
)

// maxAsked is how much of what it was asked for an engine remembers. To look at all of it again under a
// generation that fails takes as many times MaxSteps.
const maxAsked = 8

// about is what a question is for, whoever asks: callers choose it among what there is, and cannot invent
// it.
type about struct {
	kind           Kind
	service, named string // of the service; of the action or call
}

func aboutOf(in *Input) (a about) {
	a.kind = in.Kind
	if in.Service != nil {
		a.service = in.Service.Name + "." + in.Service.Region
	}
	switch {
	case in.Action != nil:
		a.named = in.Action.Name
	case in.Call != nil:
		a.named = in.Call.API + " " + in.Call.Name
	}
	return a
}

// asked remembers some of what this node was asked for and answered, as its own questions: the first
// of each sort since it started.
type asked struct {
	known sync.Map // about -> Input
	count atomic.Int64
}

// note takes a question in that every level answered.
func (a *asked) note(in *Input) {
	if a.count.Load() >= maxAsked {
		return
	}
	key := aboutOf(in)
	if _, ok := a.known.Load(key); ok {
		return
	}
	if own, ok := in.ownQuestion(); ok && a.count.Add(1) <= maxAsked {
		a.known.Store(key, own)
	}
}

func (a *asked) all() iter.Seq2[about, Input] {
	return func(yield func(about, Input) bool) {
		a.known.Range(func(k, v any) bool { return yield(k.(about), v.(Input)) })
	}
}

// ownQuestion is the question as this node would ask it: of itself, with nothing in it that a caller
// chooses or brings along but what it is for. ok is false where the input does not say who the node is.
func (in Input) ownQuestion() (own Input, ok bool) {
	if in.Self == nil {
		return Input{}, false
	}
	own = Input{V: in.V, Kind: in.Kind, Time: in.Time, Self: in.Self, Source: in.Self, Service: in.Service, Action: in.Action,
		Resource: in.Resource, Roster: in.Roster}
	if in.Source == nil {
		own.Source = nil
	}
	if in.Destination != nil {
		own.Destination = in.Self
	}
	if in.Request != nil {
		own.Request = &Request{Method: "GET"}
	}
	if in.Attest != nil {
		own.Attest = &Attest{Method: in.Attest.Method, Key: in.Attest.Key}
	}
	if in.Call != nil {
		own.Call = &Call{API: in.Call.API, Name: in.Call.Name, UID: in.Call.UID, GID: in.Call.GID, Owner: in.Call.Owner}
	}
	return own, true
}
