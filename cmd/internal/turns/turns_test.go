package turns

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	all  = 8
	each = 2
)

func peer(i int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/n%d", i))
}

// take has a peer take a turn and hold it, at so many bytes a second, for as long as it may.
func take(ctx context.Context, on *Turns, who spiffeid.ID, speed int, least uint64) {
	go func() {
		for ctx.Err() == nil {
			turn, err := on.Enter(ctx, who, least)
			if err != nil {
				return
			}
			for turn.Context().Err() == nil {
				time.Sleep(100 * time.Millisecond)
				turn.Moved(speed / 10)
			}
			turn.Leave()
		}
	}()
}

// ends is a context that ends with the test, before what still runs.
func ends(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); time.Sleep(2 * Patience) })
	return ctx
}

// waits returns how long a peer that comes later waits for a turn, at most a minute.
func waits(t *testing.T, on *Turns, who spiffeid.ID) time.Duration {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	turn, err := on.Enter(ctx, who, 0)
	if err != nil {
		return time.Minute
	}
	turn.Leave()
	return time.Since(start)
}

func TestAPlaceForWhoHasNone(t *testing.T) {
	for _, test := range []struct {
		name        string
		peers, each int
		speed       int // of each turn, bytes a second
		least       uint64
		within      time.Duration
	}{
		{"places are free", 3, each, 0, 0, 0},
		{"four take nothing, twice each", 4, each, 0, 0, 2 * Patience},
		{"four take a lot, twice each", 4, each, 100 << 10, 0, 2 * Patience},
		{"eight take nothing", 8, 1, 0, 0, 2 * Patience},
		{"eight take next to nothing", 8, 1, Least / 2, 0, 2 * Patience},
		{"thirty take nothing, twice each", 30, each, 0, 0, 10 * Patience}, // who asked before gets it before
		{"eight take what they should", 8, 1, 2 * Least, 0, time.Minute},
		{"eight over thin links take what those do", 8, 1, 1 << 10, 512, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				on, ctx := New(all, each), ends(t)
				for range test.each {
					for i := range test.peers {
						take(ctx, on, peer(i), test.speed, test.least)
					}
				}
				time.Sleep(Patience + Patience/2)
				took := waits(t, on, peer(99))
				if took > test.within || test.within == time.Minute && took < time.Minute {
					t.Errorf("it waited %s, want %s", took, test.within)
				}
			})
		})
	}
}

// Who takes two of the places that others want keeps one.
func TestTheOnlyTurnThatMovesIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on, ctx := New(all, each), ends(t)
		var held []*Turn
		for i := range all {
			turn, err := on.Enter(t.Context(), peer(i/each), 0)
			if err != nil {
				t.Fatal(err)
			}
			turn.Moved(1 << 20)
			held = append(held, turn)
		}
		for i := range 6 { // they have others wait, and so want more
			go func() {
				if turn, err := on.Enter(ctx, peer(50+i), 0); err == nil {
					turn.Moved(1 << 20)
				}
			}()
		}
		for range 20 {
			time.Sleep(Patience)
			for i := 0; i < len(held); i++ {
				held[i].Moved(1 << 20)
				if err := held[i].Context().Err(); err != nil {
					if cause := context.Cause(held[i].Context()); !errors.Is(cause, errSlow) {
						t.Errorf("it ended with %v", cause)
					}
					held[i].Leave()
					held = append(held[:i], held[i+1:]...)
				}
			}
		}
		kept := map[spiffeid.ID]int{}
		for _, turn := range held {
			kept[turn.peer]++
		}
		for i := range all / each {
			if kept[peer(i)] != 1 {
				t.Errorf("a peer keeps %d turns, want 1", kept[peer(i)])
			}
		}
	})
}

// A request that is given up, or one too many, takes no place.
func TestNoPlaceIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := New(1, 1)
		first, err := on.Enter(t.Context(), peer(1), 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		for range MaxWaiting {
			go func() {
				if turn, err := on.Enter(ctx, peer(1), 0); err == nil {
					turn.Leave()
				}
			}()
		}
		synctest.Wait()
		if _, err := on.Enter(ctx, peer(1), 0); !errors.Is(err, errWaiting) {
			t.Errorf("one more waits: %v", err)
		}
		cancel(errSlow)
		if _, err := on.Enter(ctx, peer(2), 0); !errors.Is(err, errSlow) {
			t.Errorf("given up: %v", err)
		}
		first.Leave()
		synctest.Wait()
		if n := on.Taken(); n != 0 || len(on.waiting) != 0 {
			t.Errorf("%d places taken, %d wait", n, len(on.waiting))
		}
	})
}
