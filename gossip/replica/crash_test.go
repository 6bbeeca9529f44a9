package replica

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A disk restored from a copy learns from a peer that it is behind, writes no
// more in that epoch, and is not accused.
func TestRewound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		cut := connect(a, b)
		a.put("shop", "1")
		settle(time.Second)
		cut()
		a.stop()
		copied := copyFile(t, a.path())
		a.start()
		cut = connect(a, b)
		a.put("shop", "2")
		a.put("late", "x")
		settle(time.Second)
		cut()
		a.stop()
		restoreFile(t, copied, a.path())
		a.start()
		connect(a, b)
		settle(time.Second)
		if len(a.rewound) != 1 || a.rewound[0] != 1 {
			t.Fatalf("rewound %v", a.rewound)
		}
		_, err := a.Put(t.Context(), op(a.key("shop"), "3"))
		wantErr(t, err, ErrRewound)
		wantErr(t, a.SetIdentity(t.Context(), a.self), ErrRewound)
		a.self = newIdentity(t, a.id, 2)
		if err := a.SetIdentity(t.Context(), a.self); err != nil {
			t.Fatal(err)
		}
		if got := a.put("shop", "3"); got.Epoch != 2 || got.Seq != 2 { // after the snapshot that begins the epoch
			t.Errorf("wrote %+v", got)
		}
		settle(2 * time.Second)
		converged(t, a, b)
		if e, _ := b.Get(a.key("shop")); string(e.Value) != "3" {
			t.Errorf("b shows %q", e.Value)
		}
		if len(a.found())+len(b.found()) > 0 {
			t.Error("a restored disk with a new epoch is no fault")
		}
	})
}

// Every commit is broken once before and once after it lands. Whatever happened,
// a restart finds a chain that goes on, and no peer ever sees a number twice.
func TestBrokenCommits(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for at := 1; at <= 8; at++ {
			t.Run(fmt.Sprint(fault, "/", at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { breakCommit(t, fault, at) })
			})
		}
	}
}

func breakCommit(t *testing.T, fault store.Fault, at int) {
	a, b := newNode(t, 1), newNode(t, 2)
	a.put("shop", "0")
	a.stop()
	s, err := store.OpenFaulty(a.path(), func(op int) store.Fault {
		if op == at {
			return fault
		}
		return store.NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	a.startOn(s)
	connect(a, b)
	acked := map[string]Receipt{}
	failed := a.SetIdentity(t.Context(), a.self)
	for i := 1; i <= 8 && failed == nil; i++ {
		b.put("shop", fmt.Sprint(i))
		var got Receipt
		name := fmt.Sprint("k", i)
		if got, failed = a.Put(t.Context(), op(a.key(name), name)); failed == nil {
			acked[name] = got
		}
		settle(time.Millisecond)
	}
	if failed == nil {
		t.Fatal("the fault did not happen")
	}
	wantErr(t, failed, ErrStopped)
	a.restart()
	connect(a, b)
	for name, want := range acked {
		if e, ok := a.Get(a.key(name)); !ok || e.Record != want.Record {
			t.Errorf("acknowledged %s is %v after the restart", name, e.Record)
		}
	}
	a.put("shop", "after")
	settle(3 * time.Second)
	converged(t, a, b)
	if len(a.found())+len(b.found())+len(a.rewound) > 0 {
		t.Errorf("findings %+v %+v, rewound %v", a.found(), b.found(), a.rewound)
	}
	if e, _ := b.Get(a.key("shop")); string(e.Value) != "after" {
		t.Errorf("b shows %q", e.Value)
	}
}

// onFillingDisk starts the node again on a disk that has no room while the result says so.
func (n *node) onFillingDisk() (full *atomic.Bool) {
	n.t.Helper()
	n.stop()
	full = new(atomic.Bool)
	s, err := store.OpenFaulty(n.path(), func(int) store.Fault {
		if full.Load() {
			return store.FaultFull
		}
		return store.NoFault
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.startOn(s)
	return full
}

// While the disk is full nothing new is signed, taken or shown, and what is known is read; with room the
// node goes on where it was. What was acknowledged is there after a restart too.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newNode(t, 1), newNode(t, 2), newNode(t, 3)
		a.put("shop", "0")
		full := a.onFillingDisk()
		connect(a, b)
		connect(a, c)
		if err := a.SetIdentity(t.Context(), a.self); err != nil {
			t.Fatal(err)
		}
		a.put("shop", "1")
		settle(time.Second)
		for round := range 2 {
			full.Store(true)
			for i := range 5 {
				_, err := a.Put(t.Context(), op(a.key("refused"), fmt.Sprintf("%d-%d", round, i)))
				wantErr(t, err, store.ErrFull)
				b.put("shop", fmt.Sprintf("%d-%d", round, i))
				c.put(fmt.Sprintf("c%d-%d", round, i), "c")
				settle(time.Second)
			}
			if e, ok := a.Get(b.key("shop")); ok && string(e.Value) == fmt.Sprintf("%d-4", round) {
				t.Errorf("a shows %q, which is not on its disk", e.Value)
			}
			if e, ok := a.Get(a.key("shop")); !ok || string(e.Value) != fmt.Sprint(round+1) {
				t.Errorf("a reads its own %q", e.Value)
			}
			full.Store(false)
			settle(30 * time.Second)
			a.put("shop", fmt.Sprint(round+2))
			settle(3 * time.Second)
			converged(t, a, b, c)
		}
		a.restart()
		connect(a, b)
		settle(3 * time.Second)
		converged(t, a, b)
		if e, _ := a.Get(a.key("shop")); string(e.Value) != "3" {
			t.Errorf("after a restart a shows %q", e.Value)
		}
		if len(a.found())+len(b.found())+len(a.rewound) > 0 {
			t.Errorf("findings %+v %+v, rewound %v", a.found(), b.found(), a.rewound)
		}
	})
}

// A finding is acted on also where there is no room for its proof, which is kept when there is.
func TestFullDiskConvicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newNode(t, 1)
		full := a.onFillingDisk()
		if err := a.SetIdentity(t.Context(), a.self); err != nil {
			t.Fatal(err)
		}
		liar := newHostile(t, 9)
		shop := feed.KeyOf(liar.id, feed.KindService, "shop")
		good := liar.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "good"))
		relay := liar.to(a)
		relay.send(frameRecord, good.Bytes())
		settle(time.Second)
		full.Store(true)
		for _, story := range []string{"a", "b"} {
			relay.send(frameRecord, liar.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: now() + 1}, op(shop, story)).Bytes())
		}
		settle(time.Second)
		if got := a.found(); len(got) != 1 || got[0].Accused != liar.id {
			t.Errorf("told on a full disk: %+v", got)
		}
		full.Store(false)
		settle(time.Second)
		a.restart()
		settle(time.Second)
		if got := a.found(); len(got) != 2 {
			t.Errorf("told %d times, once at the restart: the proof is not kept", len(got))
		}
	})
}

// While too many leaves wait for the trail, records of others are taken and only counted; what the node
// itself would say is refused before it is signed, and the replica goes on.
func TestFullOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		a.stop()
		var s *store.Store
		a.over = func(c *Config) {
			s = c.Store
			c.Recordable = func() error { return trail.Room(s) }
		}
		a.start()
		connect(a, b)
		a.put("shop", "1")
		settle(time.Second)
		fill := func(upTo uint64) {
			if err := s.Update(func(tx *store.Tx) error {
				for tx.Waiting() < upTo {
					if err := tx.Leaf("admin.action", []byte{0xa0}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		fill(trail.MaxWaiting / 2)
		b.put("shop", "counted")
		settle(time.Second)
		if e, _ := a.Get(b.key("shop")); string(e.Value) != "counted" {
			t.Errorf("a shows %q", e.Value)
		}
		if n, _ := s.Pending(); n != trail.MaxWaiting/2 {
			t.Errorf("%d leaves wait: what may be counted has one", n)
		}
		a.put("shop", "2")
		fill(trail.MaxWaiting)
		for range 3 {
			_, err := a.Put(t.Context(), op(a.key("shop"), "refused"))
			wantErr(t, err, trail.ErrBacklog)
			b.put("shop", "more")
			settle(time.Second)
		}
		if e, _ := a.Get(b.key("shop")); string(e.Value) != "more" {
			t.Errorf("a shows %q", e.Value)
		}
		if n, _ := s.Pending(); n != trail.MaxWaiting {
			t.Errorf("%d leaves wait", n)
		}
		if err := s.Trim(1 << 40); err != nil {
			t.Fatal(err)
		}
		a.put("shop", "3")
		settle(time.Second)
		converged(t, a, b)
	})
}
