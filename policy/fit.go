package policy

import (
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/schema"
)

// Fit is what the schemas in force say of a value. The zero value: no schema covers its key.
type Fit struct {
	Schema   string // that judged it: its file and version; of several levels the one that refuses
	Revision string // of the generation
	// Err wraps schema.ErrValue when the value breaks a schema.
	Err error
	// Before says that the value breaks the schema and was written before the schema's since: it
	// may come, and stay, and is shown as not matching.
	Before bool
}

// Refused is why a value that is new must not be taken in, or nil.
func (f Fit) Refused() error {
	if f.Before {
		return nil
	}
	return f.Err
}

// Fits asks the schemas of every level about a value of a key's kind and name, written at a time by
// its owner's clock. A level only narrows: the value has to please each that has a schema for it.
// A level's end takes none of its schemas away.
func (e *Engine) Fits(kind, name string, written time.Time, value []byte) (f Fit) {
	gen := e.gen.Load()
	if gen == nil {
		return f
	}
	for _, l := range gen.levels {
		s := l.schemas.Find(kind, name)
		if s == nil {
			continue
		}
		err := s.Check(value)
		if f.Schema == "" || err != nil {
			f = Fit{Schema: s.String(), Revision: gen.revision, Err: err, Before: err != nil && written.Before(s.Since)}
		}
		if f.Refused() != nil {
			return f
		}
	}
	return f
}

// Classes are the data classes that the schemas of all levels give a key, sorted: a level can add
// some, and take none away.
func (e *Engine) Classes(kind, name string) (out []string) {
	gen := e.gen.Load()
	if gen == nil {
		return nil
	}
	for _, l := range gen.levels {
		out = append(out, l.schemas.Classes(kind, name)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Labels reports whether the schemas in force name any data class.
func (e *Engine) Labels() bool {
	gen := e.gen.Load()
	return gen != nil && slices.ContainsFunc(gen.levels, func(l *active) bool { return l.schemas.Labels() })
}

// Schemas lists those in force, by level and file.
func (e *Engine) Schemas() (out []*schema.Schema) {
	if gen := e.gen.Load(); gen != nil {
		for _, l := range gen.levels {
			out = append(out, l.schemas.All()...)
		}
	}
	return out
}
