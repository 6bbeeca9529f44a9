package value

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Version says which of two parts of one owner is newer.
type Version struct{ Epoch, Seq uint64 }

// Signed is a part with what its owner's record says of it.
type Signed struct {
	Part
	Version
	At   uint64 // the record's time, microseconds since 1970
	Rank int    // of its owner, for the reader: the higher wins
}

// slack is by how much a clock may be ahead of those who take its records, and some: what
// answers to a change of such a clock has a time after it.
const slack = 1_000_000 // microseconds

// capped keeps a part's times from reaching far beyond its record.
func (s Signed) capped(when uint64) uint64 { return min(when, s.At+slack) }

// State is the newest part of each owner, by the owner's path.
type State map[string]Signed

// Join returns the state of who holds both.
func Join(a, b State) State {
	out := maps.Clone(a)
	if out == nil {
		out = State{}
	}
	for owner, s := range b {
		if old, ok := out[owner]; !ok || old.older(s) {
			out[owner] = s
		}
	}
	return out
}

// older orders the parts of one owner. Two of one version are a fork, which is found
// elsewhere; here it only has to come out alike everywhere.
func (s Signed) older(o Signed) bool {
	return cmp.Or(cmp.Compare(s.Epoch, o.Epoch), cmp.Compare(s.Seq, o.Seq), cmp.Compare(s.At, o.At), cmp.Compare(s.Rank, o.Rank), bytes.Compare(s.bytes(), o.bytes())) < 0
}

func (s Signed) bytes() []byte {
	b, err := s.Encode()
	if err != nil {
		return nil // of no type
	}
	return b
}

// TypeOf returns the type that all parts have. Errors wrap ErrType.
func (s State) TypeOf() (Type, error) {
	var t Type
	for _, owner := range slices.Sorted(maps.Keys(s)) {
		switch p := s[owner]; {
		case t == "":
			t = p.Type
		case t != p.Type:
			return "", fmt.Errorf("%w: its parts are %s and, of %s, %s", ErrType, t, owner, p.Type)
		}
	}
	return t, nil
}

// Read returns the value of a name, as JSON: any for a register, a number, a list of
// strings in order, an object. Parts of another type count for nothing.
func (s State) Read(t Type) (json.RawMessage, error) {
	switch t {
	case Register:
		_, p := s.register()
		if p.register == nil {
			return json.RawMessage("null"), nil
		}
		return p.register, nil
	case Counter:
		return json.Marshal(s.Count())
	case Set:
		return json.Marshal(s.Elements())
	case Map:
		return json.Marshal(s.Fields())
	}
	return nil, fmt.Errorf("%w: %q is none of %v", ErrType, t, Types)
}

// register returns the winning part and its owner.
func (s State) register() (owner string, best Signed) {
	for o, p := range s {
		if p.Type != Register {
			continue
		}
		if best.Type == "" || cmp.Or(cmp.Compare(best.Rank, p.Rank), cmp.Compare(best.At, p.At), cmp.Compare(owner, o)) < 0 {
			owner, best = o, p
		}
	}
	return owner, best
}

// Count is the value of a counter.
func (s State) Count() int64 {
	var inc, dec uint64 // of at most 2^11 owners at their ends without overflow
	for _, p := range s {
		if p.Type == Counter {
			inc, dec = sum(inc, p.inc), sum(dec, p.dec)
		}
	}
	if inc >= dec {
		return int64(min(inc-dec, math.MaxInt64))
	}
	return -int64(min(dec-inc, math.MaxInt64))
}

func sum(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// Elements is the value of a set, in order.
func (s State) Elements() []string {
	gone := s.removals()
	out := []string{}
	for owner, p := range s {
		if p.Type != Set {
			continue
		}
		for e, when := range p.add {
			if p.capped(when) > gone[e][owner] {
				out = append(out, e)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// removals is the latest add of each element and owner that somebody removed.
func (s State) removals() map[string]map[string]uint64 {
	out := map[string]map[string]uint64{}
	for _, p := range s {
		for e, by := range p.removed {
			for owner, when := range by {
				if out[e] == nil {
					out[e] = map[string]uint64{}
				}
				out[e][owner] = max(out[e][owner], p.capped(when))
			}
		}
	}
	return out
}

// Fields is the value of a map.
func (s State) Fields() map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for name, w := range s.fields() {
		if w.Value != nil {
			out[name] = w.Value
		}
	}
	return out
}

// write is a field with who wrote it.
type write struct {
	field
	rank  int
	owner string
}

// fields are the newest writes of a map's, those that unset one too.
func (s State) fields() map[string]write {
	best := map[string]write{}
	for owner, p := range s {
		for name, f := range p.fields {
			f.At = p.capped(f.At)
			w := write{f, p.Rank, owner}
			if old, ok := best[name]; !ok || cmp.Or(cmp.Compare(old.rank, w.rank), cmp.Compare(old.At, w.At), cmp.Compare(old.owner, w.owner)) < 0 {
				best[name] = w
			}
		}
	}
	return best
}
