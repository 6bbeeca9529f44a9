package value

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Change is what an owner does to its own part. Fields of one type only.
type Change struct {
	Value json.RawMessage // register

	Increment int64 // counter

	Add, Remove []string // set

	Set   map[string]json.RawMessage // map
	Unset []string                   // map
}

// Type is that of the name that the change is for. Errors wrap ErrType: it is for none,
// or for several.
func (c Change) Type() (Type, error) {
	var found []Type
	for _, of := range []struct {
		t   Type
		has bool
	}{
		{Register, c.Value != nil}, {Counter, c.Increment != 0},
		{Set, len(c.Add)+len(c.Remove) > 0}, {Map, len(c.Set)+len(c.Unset) > 0},
	} {
		if of.has {
			found = append(found, of.t)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w: there is nothing to change", ErrType)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%w: a change is for one type, not for %v", ErrType, found)
}

// Apply returns an owner's next part. s is what the owner sees of the name, its own part in it;
// now is microseconds since 1970 by its clock. Errors wrap ErrType, ErrPart or ErrNoElement.
func (c Change) Apply(s State, owner string, now uint64) (Part, error) {
	t, err := c.Type()
	if err != nil {
		return Part{}, err
	}
	old := s[owner].Part
	if old.Type != "" && old.Type != t {
		return Part{}, fmt.Errorf("%w: it is a %s, the change is for a %s", ErrType, old.Type, t)
	}
	p := old.clone()
	p.Type = t
	switch t {
	case Register:
		if !json.Valid(c.Value) {
			return Part{}, fmt.Errorf("%w: the value of a register is JSON", ErrPart)
		}
		p.register = c.Value
	case Counter:
		if c.Increment > 0 {
			p.inc += uint64(c.Increment)
		} else {
			p.dec += -uint64(c.Increment)
		}
	case Set:
		err = c.onSet(&p, s, owner, now)
	case Map:
		err = c.onMap(&p, s, now)
	}
	if err != nil {
		return Part{}, err
	}
	if _, err := p.Encode(); err != nil {
		return Part{}, err
	}
	return p, nil
}

func (p Part) clone() Part {
	p.add, p.fields = maps.Clone(p.add), maps.Clone(p.fields)
	p.removed = maps.Clone(p.removed)
	for e, by := range p.removed {
		p.removed[e] = maps.Clone(by)
	}
	if p.add == nil {
		p.add = map[string]uint64{}
	}
	if p.removed == nil {
		p.removed = map[string]map[string]uint64{}
	}
	if p.fields == nil {
		p.fields = map[string]field{}
	}
	return p
}

// onSet removes first: what is in both lists is there afterwards.
func (c Change) onSet(p *Part, s State, owner string, now uint64) error {
	gone, there := s.removals(), s.Elements()
	for _, e := range c.Remove {
		if !slices.Contains(there, e) {
			return fmt.Errorf("%w: %q", ErrNoElement, e)
		}
		delete(p.add, e)
		for other, o := range s {
			when, added := o.add[e]
			when = o.capped(when)
			if other == owner || !added || when <= gone[e][other] {
				continue
			}
			if p.removed[e] == nil {
				p.removed[e] = map[string]uint64{}
			}
			p.removed[e][other] = when
		}
	}
	for _, e := range c.Add {
		now = max(now, p.add[e]+1, gone[e][owner]+1) // an add after a removal is another add
		p.add[e] = now
	}
	return nil
}

func (c Change) onMap(p *Part, s State, now uint64) error {
	seen := s.fields()
	at := func(name string) uint64 { return max(now, p.fields[name].At+1, seen[name].At+1) }
	for _, name := range c.Unset {
		if seen[name].Value == nil {
			return fmt.Errorf("%w: %q", ErrNoElement, name)
		}
		p.fields[name] = field{At: at(name)}
	}
	for name, v := range c.Set {
		if !json.Valid(v) {
			return fmt.Errorf("%w: the value of field %q is not JSON", ErrPart, name)
		}
		p.fields[name] = field{At: at(name), Value: v}
	}
	return nil
}
