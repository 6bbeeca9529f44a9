package replica

import (
	"context"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// LinkUse is what one session runs under and uses.
type LinkUse struct {
	Peer    spiffeid.ID
	Terms   Terms  // as they hold between both
	Sent    uint64 // bytes of frames since it began
	Waiting uint64 // bytes that wait for the budget or the peer
}

// Links returns the use of every session.
func (r *Replica) Links(ctx context.Context) (out []LinkUse, err error) {
	err = r.do(ctx, func() error {
		for _, s := range r.attached {
			use := LinkUse{Peer: s.peer.id, Terms: s.terms}
			sent, waiting := s.out.usage()
			for c := range classes {
				use.Sent += sent[c]
				use.Waiting += waiting[c]
			}
			out = append(out, use)
		}
		return nil
	})
	return out, err
}

func (c class) String() string {
	return [...]string{"evidence", "control", "state", "bulk"}[c]
}

// measureLinks updates the metrics of all sessions.
func (r *Replica) measureLinks() {
	byMode := map[Mode]int{}
	var waits [classes]uint64
	for _, s := range r.attached {
		byMode[s.terms.Mode]++
		sent, waiting := s.out.usage()
		for c := range classes {
			r.metrics.sent.WithLabelValues(c.String()).Add(float64(sent[c] - s.counted[c]))
			waits[c] += waiting[c]
		}
		s.counted = sent
	}
	for m := range modes {
		r.metrics.sessions.WithLabelValues(m.String()).Set(float64(byMode[m]))
	}
	for c := range classes {
		r.metrics.waiting.WithLabelValues(c.String()).Set(float64(waits[c]))
	}
}
