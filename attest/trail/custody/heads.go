package custody

import (
	"context"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Heads asks each other node of the region for the newest signed head of its trail, and returns those
// that came and name no other node's trail. Their signatures are not verified: whoever has a head's
// trail can. It may run beside Run.
func (k *Keeper) Heads(ctx context.Context) (out [][]byte) {
	for _, m := range k.cfg.Members() {
		if m == k.cfg.Self || ctx.Err() != nil {
			continue
		}
		a, err := k.ask(ctx, m, question{Owner: m.String(), From: headOnly})
		if err != nil || len(a.Epochs) == 0 {
			continue
		}
		head, err := trail.PeekCheckpoint(a.Head)
		if origin, oerr := trail.Origin(m, a.Epochs[len(a.Epochs)-1]); err == nil && oerr == nil && head.Origin == origin {
			out = append(out, a.Head)
		}
	}
	return out
}
