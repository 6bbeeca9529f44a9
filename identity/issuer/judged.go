package issuer

import (
	"context"
	"fmt"
)

// Judged is an Attestor whose evidence policy judges once it has proved something.
type Judged struct {
	Attestor
	// Judge returns why what was proved is not enough, or nil; the error's text goes
	// back to the machine and should name the rule. What it records of an acceptance may
	// be nil. A nil Judge refuses everything.
	Judge func(ctx context.Context, kind string, proved Attested) (Record, error)
}

// Attest has the evidence judged by the Attestor, then what it proved by policy. Errors
// are the Attestor's, or match ErrAppraisal. Nothing is spent if it is refused.
func (j Judged) Attest(ctx context.Context, e Evidence, exchange func([]byte) ([]byte, error)) (Attested, error) {
	if j.Judge == nil {
		return Attested{}, fmt.Errorf("%w: nobody here appraises machines", ErrAppraisal)
	}
	proved, err := j.Attestor.Attest(ctx, e, exchange)
	if err != nil {
		return Attested{}, err
	}
	if proved.Judged, err = j.Judge(ctx, j.Type(), proved); err != nil {
		return Attested{}, fmt.Errorf("%w: %w", ErrAppraisal, err)
	}
	return proved, nil
}
