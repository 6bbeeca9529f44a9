package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// gone counts, by erasure, the decisions that might answer a question, had what they were about not been
// erased: an answer that leaves them out says so.
type gone map[payload.Erasure]int

func (g gone) add(e decision.Event) {
	if e.Erasure != nil {
		g[*e.Erasure]++
	}
}

// tell adds a line for each erasure whose leaf is in the trail.
func (g gone) tell(ctx context.Context, find Finder, dir string, out []Answer) ([]Answer, error) {
	if len(g) == 0 {
		return out, nil
	}
	leaves, err := find(ctx, []string{dir}, Filter{Kinds: []string{trail.PayloadErase.Name()}})
	if err != nil {
		return nil, err
	}
	for _, f := range leaves {
		for e, n := range g {
			if f.Field("erasure") == e.ID {
				out = append(out, Answer{time.Unix(e.At, 0).UTC(), fmt.Sprintf("what %d decisions were about is not known here: %s", n, e), []Place{place(f)}})
			}
		}
	}
	return out, nil
}
