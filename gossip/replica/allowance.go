package replica

import (
	"context"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Allowance is the budget of a link, for whoever sends something else than gossip over it.
// The zero value has no limit.
type Allowance struct {
	q   *queue
	now func() time.Time
}

// Allowance returns the budget of the session with a peer, which what is written through it
// shares; where there is none, one of its own of Config.Terms. Errors are ctx's or ErrStopped.
func (r *Replica) Allowance(ctx context.Context, peer spiffeid.ID) (a Allowance, err error) {
	a.now = r.cfg.Now
	err = r.do(ctx, func() error {
		for _, s := range r.attached {
			if s.peer.id == peer {
				a.q = s.out
				return nil
			}
		}
		a.q = newQueue()
		a.q.limit(r.cfg.Terms(peer).Budget, r.cfg.Now())
		return nil
	})
	return a, err
}

// Rate is the budget in bytes a second; 0: there is no limit.
func (a Allowance) Rate() uint64 {
	if a.q == nil {
		return 0
	}
	return uint64(a.q.rate())
}

// Writer writes to w as the budget lets it, as state of the gossip goes: behind what is urgent
// there, and in pieces that hold it up for an eighth of a second at most. Writing ends with ctx.
func (a Allowance) Writer(ctx context.Context, w io.Writer) io.Writer {
	return &within{a, ctx, w}
}

type within struct {
	Allowance
	ctx context.Context
	w   io.Writer
}

func (w *within) Write(b []byte) (n int, err error) {
	for n < len(b) {
		rate := w.Rate()
		if rate == 0 {
			m, err := w.w.Write(b[n:])
			return n + m, err
		}
		piece := b[n : n+min(len(b)-n, pieceOf(float64(rate)))]
		if err := w.await(len(piece)); err != nil {
			return n, err
		}
		m, err := w.w.Write(piece)
		if n += m; err != nil {
			return n, err
		}
		if n < len(b) {
			if err := pause(w.ctx, time.Duration(float64(len(piece))/float64(rate)*float64(time.Second))); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// await waits until the budget lets so many bytes pass, and spends it.
func (w *within) await(bytes int) error {
	for {
		wait := w.q.outside(bytes, w.now())
		if wait == 0 {
			return nil
		}
		if err := pause(w.ctx, wait); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
