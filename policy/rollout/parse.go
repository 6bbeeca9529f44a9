package rollout

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
)

// MaxFile is the largest plan as JSON, in bytes.
const MaxFile = 256 << 10

// Parse reads a plan that an author wrote: JSON with the fields of Plan, and no others. Errors wrap
// ErrPlan.
func Parse(b []byte) (*Plan, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrPlan, len(b), MaxFile)
	}
	var p Plan
	if err := jsonfile.Decode(b, &p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return &p, p.Check()
}
