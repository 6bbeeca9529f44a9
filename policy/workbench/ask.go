package workbench

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// ErrAsk means that a question cannot be made of what was given. The message names the part.
var ErrAsk = errors.New("not a question for policy")

// Asking is a question in few words. What it leaves out is taken for good: a source that is
// attested, of good standing and of the tree's region unless its trust domain is another.
type Asking struct {
	Kind   policy.Kind // empty: connect
	Source string      // SPIFFE ID
	// Target is the service as NAME.REGION, or NAME for one of the tree's region (connect, request);
	// the node, by SPIFFE ID (replicate); the method of the local API (admin); or how the machine
	// attests itself (attest).
	Target string
	Action string   // connect: accept where there is a target, link where there is none
	Set    []string // PATH=VALUE, such as source.standing=quarantined; a value is JSON, or else a string
}

// Ask makes an input. Errors wrap ErrAsk.
func (t *Tree) Ask(a Asking, now time.Time) (policy.Input, error) {
	if a.Kind == "" {
		a.Kind = policy.Connect
	}
	in := policy.Input{V: policy.InputVersion, Kind: a.Kind, Time: policy.Time{Unix: now.Unix(), Trusted: true},
		Self: &policy.Peer{Region: t.Plan.Region, TrustDomain: t.Plan.TrustDomain, Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true}}}
	var err error
	if a.Source != "" {
		if in.Source, err = t.peer("source", a.Source); err != nil {
			return in, err
		}
	}
	if err := t.target(&in, a); err != nil {
		return in, err
	}
	return Set(in, a.Set)
}

func (t *Tree) target(in *policy.Input, a Asking) (err error) {
	switch a.Kind {
	case policy.Connect, policy.HTTPRequest:
		in.Action = &policy.Action{Name: policy.Link}
		if a.Target != "" {
			name, region, ok := strings.Cut(strings.TrimSuffix(a.Target, ".mesh"), ".")
			if !ok {
				region = t.Plan.Region
			}
			if name == "" || region == "" || strings.ContainsFunc(a.Target, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' }) {
				return fmt.Errorf("%w: target %q: want a service NAME.REGION, such as web.east", ErrAsk, a.Target)
			}
			in.Service, in.Action = &policy.Service{Name: name, Region: region}, &policy.Action{Name: policy.Accept}
		}
		if a.Action != "" {
			in.Action.Name = a.Action
		}
		if a.Kind == policy.HTTPRequest {
			in.Action, in.Request = nil, &policy.Request{Method: "GET"}
		}
	case policy.Replicate:
		in.Resource = &policy.Resource{}
		if a.Target == "" {
			return fmt.Errorf("%w: replicate needs a target, the SPIFFE ID of the node that is to get the state", ErrAsk)
		}
		in.Destination, err = t.peer("target", a.Target)
	case policy.AttestNode:
		in.Attest = &policy.Attest{Method: a.Target}
		if a.Target == "" {
			in.Attest.Method = "bailiwick_tpm"
		}
	case policy.Admin:
		in.Call = &policy.Call{API: "control", Name: a.Target, UID: -1, GID: -1}
	case policy.Quarantine:
		in.Roster = &policy.Roster{}
	case policy.StateAdmit:
	default:
		return fmt.Errorf("%w: kind %q is not one of %v", ErrAsk, a.Kind, policy.Kinds)
	}
	return err
}

// peer is what a node would know of a SPIFFE ID at best. what names the ID in errors.
func (t *Tree) peer(what, id string) (*policy.Peer, error) {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return nil, fmt.Errorf("%w: %s %q is no SPIFFE ID: %v", ErrAsk, what, id, err)
	}
	td := parsed.TrustDomain().Name()
	p := &policy.Peer{SPIFFEID: id, TrustDomain: td, Path: strings.Split(strings.TrimPrefix(parsed.Path(), "/"), "/"),
		Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true}}
	p.Region, _, _ = strings.Cut(td, ".")
	if td == t.Plan.TrustDomain || t.Plan.TrustDomain == "" {
		p.Region = t.Plan.Region
	}
	for i := 0; i+1 < len(p.Path); i++ {
		switch p.Path[i] {
		case "zone":
			p.Zone = p.Path[i+1]
		case "node":
			p.Node = p.Path[i+1]
		}
	}
	return p, nil
}

// Set changes parts of an input by their paths, each given as in Asking.Set. The closed schema
// refuses what is misspelt. Errors wrap ErrAsk.
func Set(in policy.Input, all []string) (policy.Input, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return in, err
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		return in, err
	}
	for _, one := range all {
		path, text, ok := strings.Cut(one, "=")
		if !ok || path == "" {
			return in, fmt.Errorf("%w: %q: want PATH=VALUE, such as source.standing=quarantined", ErrAsk, one)
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		at, steps := doc, strings.Split(strings.TrimPrefix(path, "input."), ".")
		for i, step := range steps[:len(steps)-1] {
			below, isObject := at[step].(map[string]any)
			if !isObject {
				if at[step] != nil {
					return in, fmt.Errorf("%w: %q: %s is no object", ErrAsk, one, strings.Join(steps[:i+1], "."))
				}
				below = map[string]any{}
				at[step] = below
			}
			at = below
		}
		if at[steps[len(steps)-1]] = value; value == nil {
			delete(at, steps[len(steps)-1])
		}
	}
	if b, err = json.Marshal(doc); err != nil {
		return in, err
	}
	out, err := policy.ParseInput(b)
	if err != nil {
		return in, fmt.Errorf("%w: %v", ErrAsk, err) // no denial: nobody was asked
	}
	return out, nil
}

// Engine compiles the tree into an engine that requires every level of it. Errors are those of
// policy.Engine.Activate, which policy.Mistakes takes apart.
func (t *Tree) Engine() (*policy.Engine, error) { return t.engine(policy.Config{}) }

func (t *Tree) engine(c policy.Config) (*policy.Engine, error) {
	names := make([]string, len(t.Levels))
	levels := make([]policy.Level, len(t.Levels))
	for i, l := range t.Levels {
		names[i], levels[i] = l.Name, l.Level
	}
	c.Require = names
	e := policy.New(c)
	return e, e.Activate(levels...)
}
