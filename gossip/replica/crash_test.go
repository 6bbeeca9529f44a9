package replica

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
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
		if got := a.put("shop", "3"); got.Epoch != 2 || got.Seq != 1 {
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
