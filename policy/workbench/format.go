package workbench

import (
	"errors"
	"maps"
	"slices"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Layout is a module that is not in the one layout of Rego.
type Layout struct {
	File   string // its path
	Before string
	After  string
}

// Format lays out the modules of a tree and returns those that change. It writes nothing. A module
// that does not parse is an error, and the others are returned all the same.
func (t *Tree) Format() (out []Layout, err error) {
	var errs []error
	for _, l := range t.Written() {
		for _, p := range slices.Sorted(maps.Keys(l.Modules)) {
			after, err := policy.Format(l.Name+"/"+p, l.Modules[p])
			if err != nil {
				errs = append(errs, err)
			} else if after != l.Modules[p] {
				out = append(out, Layout{File: t.Path(l.Name + "/" + p), Before: l.Modules[p], After: after})
			}
		}
	}
	return out, errors.Join(errs...)
}

// Diff shows what changes, as a unified diff.
func (l Layout) Diff() string {
	return string(diff.Diff(l.File, []byte(l.Before), l.File+" (laid out)", []byte(l.After)))
}
