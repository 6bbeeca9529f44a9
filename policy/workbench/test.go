package workbench

import (
	"context"
	"errors"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Tested is what the tests of one level showed.
type Tested struct {
	Level string
	policy.TestReport
}

// Test runs the tests of the levels that are written in the tree. A level that does not compile is
// an error (policy.Mistakes takes it apart), and the tests of the others are run all the same.
func (t *Tree) Test(ctx context.Context, o policy.TestOptions) (out []Tested, err error) {
	var errs []error
	for _, l := range t.Written() {
		rep, err := policy.Test(ctx, l.Level, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, Tested{Level: l.Name, TestReport: rep})
	}
	return out, errors.Join(errs...)
}
