package shadow

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Bounds of what a Tally keeps of who asked.
const (
	maxSources   = 8192 // of all kinds
	maxQuestions = 8192
)

// Callers is how many sources asked one kind of question, and how many of them got another answer
// at least once. However often a source asks, it is one.
type Callers struct {
	Kind    policy.Kind `json:"kind"`
	Sources uint64      `json:"sources"`
	Denies  uint64      `json:"denies"` // of the sources, as are those below
	Allows  uint64      `json:"allows"`
	Fails   uint64      `json:"fails"`
	Errors  uint64      `json:"errors"` // the policy in force failed
}

// asked counts questions and sources once each.
type asked struct {
	questions map[name]struct{}
	sources   map[name]*source
	repeated  uint64 // questions counted after questions was full
	uncounted uint64 // of sources for which there was no room
}

type source struct {
	kind                          policy.Kind
	denies, allows, fails, errors bool
}

// name stands for some strings, in bounded memory.
type name [16]byte

func nameOf(parts ...string) name {
	var b []byte
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	h := sha256.Sum256(b)
	return name(h[:16])
}

func (a *asked) add(kind policy.Kind, enforced, candidate policy.Decision, class Class) {
	if a.sources == nil {
		a.questions, a.sources = map[name]struct{}{}, map[name]*source{}
	}
	if len(a.questions) < maxQuestions {
		a.questions[nameOf(string(kind), enforced.Source, enforced.Target, enforced.Rule, candidate.Rule)] = struct{}{}
	} else {
		a.repeated++
	}
	who := nameOf(string(kind), enforced.Source)
	s := a.sources[who]
	if s == nil {
		if len(a.sources) >= maxSources {
			a.uncounted++
			return
		}
		s = &source{kind: kind}
		a.sources[who] = s
	}
	s.denies = s.denies || class == Denies
	s.allows = s.allows || class == Allows
	s.fails = s.fails || class == Fails
	s.errors = s.errors || Failed(enforced)
}

// Questions is how many different questions were compared: by kind, source, target and deciding
// rules. After the first 8,192 every question counts.
func (t *Tally) Questions() uint64 { return uint64(len(t.asked.questions)) + t.asked.repeated }

// Uncounted is how many questions came from sources that are not in Callers, which has room for
// 8,192.
func (t *Tally) Uncounted() uint64 { return t.asked.uncounted }

// Callers returns who asked, by kind.
func (t *Tally) Callers() []Callers {
	kinds := map[policy.Kind]*Callers{}
	for _, s := range t.asked.sources {
		c := kinds[s.kind]
		if c == nil {
			c = &Callers{Kind: s.kind}
			kinds[s.kind] = c
		}
		c.Sources++
		count(&c.Denies, s.denies)
		count(&c.Allows, s.allows)
		count(&c.Fails, s.fails)
		count(&c.Errors, s.errors)
	}
	out := make([]Callers, 0, len(kinds))
	for _, c := range kinds {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Callers) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}

func count(n *uint64, is bool) {
	if is {
		*n++
	}
}
