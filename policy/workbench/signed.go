package workbench

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// unreadable names what could not be read, once, and says what would have been right.
func unreadable(path string, err error) error {
	why := err
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		why = at.Err
	}
	return fmt.Errorf("%w: %s: %v; name a folder of policy, or a signed policy file", ErrTree, path, why)
}

// openSigned reads a signed policy file as the tree of one level. What its delegation states stands
// in for tree.json.
func openSigned(path string) (*Tree, error) {
	b, err := bounded.ReadFile(path, bundle.MaxFile)
	if err != nil {
		return nil, err
	}
	file, err := bundle.Take(b)
	if err != nil {
		return nil, err
	}
	c, err := bundle.Unpack(file.Content)
	if err != nil {
		return nil, fmt.Errorf("the record of version %d says which content it is for, and it is not beside it: %w", file.Record.Version, err)
	}
	r := file.Record
	l := Level{Dir: path, Level: policy.Level{Name: r.Level, Revision: fmt.Sprint(r.Version), Modules: c.Modules, Data: c.Data, Schemas: c.Schemas}}
	t := &Tree{Dir: path, Signed: true}
	d, delegated, err := r.Delegation()
	switch {
	case err != nil:
		return nil, err
	case delegated:
		l.Delegation = d.Covers()
		if t.Plan.TrustDomain = d.Scope; len(d.Regions) == 1 {
			t.Plan.Region = d.Regions[0]
		}
	case r.Level == policy.Global:
		l.Delegation = policy.Delegation{All: true}
	}
	t.complete(map[string]Level{r.Level: l})
	return t, nil
}
