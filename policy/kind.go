package policy

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Kind says what is being decided.
type Kind string

// The kinds of decision.
const (
	// Connect: may Source open a connection to Service (or, with a Control call, to this node)?
	Connect Kind = "connect"
	// HTTPRequest: may Source make this HTTP request of Service?
	HTTPRequest Kind = "request"
	// StateAdmit: what may Source write into this node's state? The answer carries Grants; it is
	// asked of an origin, never of one change (package admission).
	StateAdmit Kind = "state_admit"
	// AttestNode: are the verified claims in Attest good enough to issue an identity?
	AttestNode Kind = "attest"
	// Replicate: may state of the data classes in Resource go from the node Source to the node
	// Destination? Asked at both ends; Self is the one that asks.
	Replicate Kind = "replicate"
	// Quarantine: by which thresholds does this node contain its peers? The answer carries
	// Thresholds; it is asked for a region's size, never of one peer.
	Quarantine Kind = "quarantine"
	// Admin: may the local program that made Call do so?
	Admin Kind = "admin"
)

// Kinds lists every kind.
var Kinds = []Kind{Connect, HTTPRequest, StateAdmit, AttestNode, Replicate, Quarantine, Admin}

// section is a set of the parts of an Input that only some kinds have.
type section uint16

const (
	hasSelf section = 1 << iota
	hasSource
	hasDestination
	hasService
	hasAction
	hasRequest
	hasResource
	hasAttest
	hasRoster
	hasCall
)

var sectionNames = [...]string{"self", "source", "destination", "service", "action", "request", "resource", "attest", "roster", "call"}

// always is what every input has.
var always = []string{"v", "kind", "time", "policy"}

func (s section) names() (out []string) {
	for ; s != 0; s &= s - 1 {
		out = append(out, sectionNames[bits.TrailingZeros16(uint16(s))])
	}
	return out
}

// shape is the closed input of a kind.
type shape struct {
	asks string  // for people
	must section // without it there is nothing to decide
	may  section
}

var shapes = map[Kind]shape{
	Connect: {"May source open a connection to service, or link to this node?",
		hasSource, hasSelf | hasDestination | hasService | hasAction},
	HTTPRequest: {"May source make this HTTP request of service?",
		hasSource | hasService | hasRequest, hasSelf | hasDestination},
	StateAdmit: {"What may source write into this node's state?",
		hasSource, hasSelf},
	AttestNode: {"Are the verified claims about a machine good enough for an identity?",
		hasAttest, hasSelf | hasSource},
	Replicate: {"May state of these data classes go from the node source to the node destination?",
		hasSource | hasDestination | hasResource, hasSelf},
	Quarantine: {"By which thresholds does this node contain its peers?",
		hasRoster, hasSelf},
	Admin: {"May a local program make this call of the node's API?",
		hasCall, hasSelf | hasSource},
}

// fields are the names that input has for a kind, in the order of Input.
func (s shape) fields() []string {
	return append(slices.Clone(always), (s.must | s.may).names()...)
}

// sections tells which of the parts that not every kind has are there.
func (in *Input) sections() (s section) {
	for i, there := range [...]bool{in.Self != nil, in.Source != nil, in.Destination != nil, in.Service != nil, in.Action != nil,
		in.Request != nil, in.Resource != nil, in.Attest != nil, in.Roster != nil, in.Call != nil} {
		if there {
			s |= 1 << i
		}
	}
	return s
}

// check refuses an input that lacks what its kind needs, or has what its kind does not have.
func (in *Input) check() error {
	if _, err := in.misfit(); err != nil {
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	return nil
}

// misfit is what check finds, with the path of the field that is wrong, or that calls for what is
// missing.
func (in *Input) misfit() (path []string, err error) {
	shape, ok := shapes[in.Kind]
	if !ok {
		return []string{"kind"}, fmt.Errorf("kind %q is not one of %v", in.Kind, Kinds)
	}
	return shape.misfit(in)
}

// misfit is Input.misfit for a kind that is known.
func (s shape) misfit(in *Input) (path []string, err error) {
	got := in.sections()
	switch lacks, extra := s.must&^got, got&^(s.must|s.may); {
	case in.V != InputVersion:
		return []string{"v"}, fmt.Errorf("v is %d, want %d", in.V, InputVersion)
	case in.Time.Unix <= 0:
		return []string{"time", "unix"}, errors.New("time.unix is missing")
	case lacks != 0:
		return []string{"kind"}, fmt.Errorf("kind %s needs %s", in.Kind, strings.Join(lacks.names(), " and "))
	case extra != 0:
		return extra.names()[:1], fmt.Errorf("kind %s has no %s; it has %s", in.Kind,
			strings.Join(extra.names(), " and no "), strings.Join(s.fields(), ", "))
	case in.Kind == Connect && in.Service == nil && in.Action == nil:
		return []string{"kind"}, errors.New("a connect needs service or action")
	}
	return nil, nil
}
