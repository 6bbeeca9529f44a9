package issuer

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	addrA = netip.MustParseAddr("10.0.0.1")
	addrB = netip.MustParseAddr("2001:db8::1")
	addrC = netip.MustParseAddr("2001:db8::ffff") // the same /64
)

// A thousand from one address and one from another: the other does not wait.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits
		start := time.Now()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				done, err := l.begin(t.Context(), addrA)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(100 * time.Millisecond) // the machine's TPM works
				done()
			})
		}
		synctest.Wait()
		if l.open != attestOpen {
			t.Errorf("%d under way of one address", l.open)
		}
		done, err := l.begin(t.Context(), addrB)
		if err != nil || time.Since(start) > 50*time.Millisecond {
			t.Errorf("another address waited %s: %v", time.Since(start), err)
		}
		done()
		wg.Wait()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("a thousand behind one address took %s", took)
		}
		if len(l.accounts) != 0 || len(l.turns) != 0 || l.open != 0 || l.waiting != 0 {
			t.Errorf("left: %d accounts, %d turns, %d open, %d waiting", len(l.accounts), len(l.turns), l.open, l.waiting)
		}
	})
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits
		var open []func()
		begin := func(a netip.Addr) error {
			done, err := l.begin(t.Context(), a)
			if err == nil {
				open = append(open, done)
			}
			return err
		}
		for range attestOpen / 2 { // a /64 is one address
			if begin(addrB) != nil || begin(addrC) != nil {
				t.Fatal("refused")
			}
		}
		start := time.Now()
		if err := begin(addrB); !errors.Is(err, errBusy) || time.Since(start) != attestWait {
			t.Errorf("too many of one address: %v after %s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.begin(ctx, addrC); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that gives up: %v", err)
		}
		for i := 0; l.open < attestOpenAll; i++ {
			if err := begin(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})); err != nil {
				t.Fatal(err)
			}
		}
		if err := begin(addrA); !errors.Is(err, errBusy) {
			t.Errorf("too many in all: %v", err)
		}
		for _, done := range open {
			done()
		}
		open = nil
		time.Sleep(2 * time.Second) // the bucket is full again
		start = time.Now()
		for range 2 * attestBurst {
			if err := begin(addrA); err != nil {
				t.Fatal(err)
			}
			open[len(open)-1]()
		}
		if rest := time.Since(start); rest < 900*time.Millisecond {
			t.Errorf("%d in %s", 2*attestBurst, rest)
		}

		// More than can wait.
		for range attestOpen {
			begin(addrB)
		}
		var wg sync.WaitGroup
		for range attestQueue {
			wg.Go(func() { _ = begin2(t.Context(), &l, addrB) })
		}
		synctest.Wait()
		start = time.Now()
		if err := begin(addrB); !errors.Is(err, errBusy) || time.Since(start) != 0 {
			t.Errorf("the line is full: %v after %s", err, time.Since(start))
		}
		wg.Wait()
	})
}

func begin2(ctx context.Context, l *limits, a netip.Addr) error {
	_, err := l.begin(ctx, a)
	return err
}

func TestShares(t *testing.T) {
	one, two := spiffeid.RequireFromPath(td, "/spire/agent/x/1"), spiffeid.RequireFromPath(td, "/spire/agent/x/2")
	var s shares
	if !s.take(one, signBurst, t0) || s.take(one, 1, t0) {
		t.Error("a burst is not what it should be")
	}
	if !s.take(two, 1, t0) {
		t.Error("another machine must not notice")
	}
	if !s.take(one, signRate, t0.Add(time.Second)) || s.take(one, 1, t0.Add(time.Second)) {
		t.Error("a second later")
	}
	s.tidy(t0.Add(time.Hour))
	if len(s.of) != 0 {
		t.Errorf("%d agents are remembered", len(s.of))
	}
	free := shares{max: -1}
	if !free.take(one, 1<<20, t0) {
		t.Error("no limit")
	}
}
