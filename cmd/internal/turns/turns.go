// Package turns shares out a few places among many peers: so many things are done for all at once,
// so many of them for each.
//
// What always holds:
//
//   - Places are given in the order in which they were asked for; who waits for a place of its own
//     share keeps nothing from others.
//   - While all places are taken, whoever has none and has waited for Patience gets one: the turn
//     ends that is slowest of those that move less than Least bytes a second, and of those of
//     peers that have more than one. A turn that has lasted less than Patience is left alone, and so is the
//     only one of a peer that moves.
//   - So as many peers as there are places, and not fewer, can keep others waiting, and only for as
//     long as they read.
//   - Of one peer MaxWaiting wait.
//
// A turn that is ended is told so by its context, and has its place until it is left.
package turns

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	Patience   = time.Second // of who waits, and for who has just begun
	Least      = 4 << 10     // bytes a second
	MaxWaiting = 32          // of one peer
)

// errSlow is the cause with which a turn ends for another peer's sake.
var errSlow = errors.New("others wait, and this peer took little")

// errWaiting means that a peer waits for so many turns already that this one is refused.
var errWaiting = errors.New("too many turns of this peer wait")

// Turns are some places. Its methods may be called from any goroutine.
type Turns struct {
	all, each int

	mu      sync.Mutex // held for slice work only
	taken   []*Turn
	waiting []*request
}

// New makes so many places, of which each peer gets at most so many.
func New(all, each int) *Turns { return &Turns{all: all, each: each} }

type request struct {
	peer  spiffeid.ID
	least float64
	given chan struct{} // closed when it has a turn
	turn  *Turn
	ctx   context.Context
}

// Turn is one place that a peer has.
type Turn struct {
	of    *Turns
	peer  spiffeid.ID
	least float64
	began time.Time
	moved int // bytes
	ctx   context.Context
	end   context.CancelCauseFunc
}

// Enter waits for a turn of a peer. least is how many bytes a second its link is known to take, if
// that is less than Least; 0: nothing is known. The error is ctx's, or that too many wait already.
func (t *Turns) Enter(ctx context.Context, peer spiffeid.ID, least uint64) (*Turn, error) {
	r := &request{peer: peer, least: Least, given: make(chan struct{}), ctx: ctx}
	if least > 0 {
		r.least = min(r.least, float64(least))
	}
	if err := t.ask(r); err != nil {
		return nil, err
	}
	tick := time.NewTicker(Patience)
	defer tick.Stop()
	for {
		select {
		case <-r.given:
			return r.turn, nil
		case <-ctx.Done():
			if turn := t.withdraw(r); turn != nil {
				turn.Leave()
			}
			return nil, context.Cause(ctx)
		case <-tick.C:
			t.endSlow(peer, time.Now())
		}
	}
}

func (t *Turns) ask(r *request) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	waiting := 0
	for _, other := range t.waiting {
		if other.peer == r.peer {
			waiting++
		}
	}
	if waiting >= MaxWaiting {
		return errWaiting
	}
	t.waiting = append(t.waiting, r)
	t.give(time.Now())
	return nil
}

// withdraw takes a request back; if it was given a turn meanwhile, that is returned.
func (t *Turns) withdraw(r *request) *Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(other *request) bool { return other == r })
	return r.turn
}

// give gives free places to those who wait for them. t.mu is held.
func (t *Turns) give(now time.Time) {
	t.waiting = slices.DeleteFunc(t.waiting, func(r *request) bool {
		if len(t.taken) >= t.all || t.of(r.peer) >= t.each {
			return false
		}
		r.turn = &Turn{of: t, peer: r.peer, least: r.least, began: now}
		r.turn.ctx, r.turn.end = context.WithCancelCause(r.ctx)
		t.taken = append(t.taken, r.turn)
		close(r.given)
		return true
	})
}

// of counts the turns of a peer.
func (t *Turns) of(peer spiffeid.ID) (n int) {
	for _, turn := range t.taken {
		if turn.peer == peer {
			n++
		}
	}
	return n
}

// endSlow ends a turn for a peer that has waited: see the package doc.
func (t *Turns) endSlow(peer spiffeid.ID, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.taken) < t.all || t.of(peer) > 0 {
		return
	}
	var slowest *Turn
	for _, turn := range t.taken {
		if turn.ctx.Err() != nil {
			return // it leaves soon
		}
		if now.Sub(turn.began) < Patience || turn.speed(now) >= turn.least && t.of(turn.peer) == 1 {
			continue
		}
		if slowest == nil || turn.speed(now) < slowest.speed(now) {
			slowest = turn
		}
	}
	if slowest != nil {
		slowest.end(errSlow)
	}
}

// speed is how many bytes a second have moved. t.mu is held.
func (t *Turn) speed(now time.Time) float64 { return float64(t.moved) / now.Sub(t.began).Seconds() }

// Context ends when the one that was given to Enter does, or the turn for another's sake.
func (t *Turn) Context() context.Context { return t.ctx }

// Moved counts bytes that the peer took.
func (t *Turn) Moved(bytes int) {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.moved += bytes
}

// Leave gives the place back. It must be called once.
func (t *Turn) Leave() {
	t.end(nil)
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.of.taken = slices.DeleteFunc(t.of.taken, func(other *Turn) bool { return other == t })
	t.of.give(time.Now())
}

// Taken counts the places that are taken.
func (t *Turns) Taken() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.taken)
}
