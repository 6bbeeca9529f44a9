package replica

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func TestConvergence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 5)
		for i, n := range nodes {
			n.put("shop", fmt.Sprint("10.0.0.", i))
			n.put("large", strings.Repeat("x", 3<<10)) // announced and pulled
		}
		settle(time.Millisecond)
		converged(t, nodes...)
		if got, _ := nodes[0].List("/"); len(got) != 10 {
			t.Fatalf("%d entries, want 10", len(got))
		}
		if _, err := nodes[3].Delete(t.Context(), nodes[3].key("shop")); err != nil {
			t.Fatal(err)
		}
		settle(time.Millisecond)
		if _, ok := nodes[0].Get(nodes[3].key("shop")); ok {
			t.Error("deleted entry is still there")
		}
		settle(2 * time.Second)
		converged(t, nodes...)
		for _, n := range nodes {
			if d := n.debtNow(); d.Missing.Records+d.Owed.Records > 0 {
				t.Errorf("%s: debt %+v at rest", n.id, d)
			}
		}
	})
}

func TestPartitionAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c, d := newNode(t, 1), newNode(t, 2), newNode(t, 3), newNode(t, 4)
		connect(a, b)
		connect(c, d)
		cut := connect(b, c)
		a.put("shop", "before")
		settle(2 * time.Second)
		converged(t, a, b, c, d)
		cut()
		const more = 200 // several pulls
		for i := range more {
			a.put("shop", fmt.Sprint(i))
			d.put("shop", fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		settle(10 * time.Second)
		var owed Backlog
		for _, p := range b.debtNow().Peers {
			if p.Peer == c.id {
				owed = p.Owed
			}
		}
		if owed.Records < more || owed.Bytes < more*100 || owed.Oldest < 10*time.Second {
			t.Errorf("b owes c %+v, want %d records", owed, more)
		}
		connect(b, c)
		settle(100 * time.Millisecond)
		converged(t, a, b, c, d)
		settle(2 * time.Second)
		for _, n := range []*node{a, b, c, d} {
			if got := n.debtNow(); got.Missing.Records+got.Owed.Records > 0 {
				t.Errorf("%s: debt %+v after the heal", n.id, got)
			}
		}
	})
}

func TestKillAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		cut := connect(a, b)
		first := a.put("shop", "1")
		b.put("shop", "2")
		settle(time.Second)
		cut()
		a.restart()
		if e, ok := a.Get(b.key("shop")); !ok || string(e.Value) != "2" || e.Age < time.Second {
			t.Fatalf("after a restart alone: %+v", e)
		}
		b.put("shop", "3")
		again := a.put("shop", "4")
		if again.Epoch != first.Epoch || again.Seq <= first.Seq {
			t.Errorf("record %+v after %+v", again, first)
		}
		connect(a, b)
		settle(2 * time.Second)
		converged(t, a, b)
		if len(a.found())+len(b.found()) > 0 {
			t.Error("a restart is not a fault")
		}
	})
}

func TestSlowPeerHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, slow := newNode(t, 1), newNode(t, 2), newHostile(t, 3)
		connect(a, b)
		stuck, theirs := newPipe()
		ended := make(chan error, 1)
		go func() { ended <- a.Attach(t.Context(), slow.id, theirs) }()
		big := strings.Repeat("x", 900)
		for i := range 3000 { // ten times what a queue holds
			a.put("shop", fmt.Sprint(i, big))
			time.Sleep(10 * time.Millisecond)
		}
		settle(time.Second)
		converged(t, a, b)
		_ = a.do(t.Context(), func() error {
			for s := range a.sessions {
				if s.out.size > hardQueue {
					t.Errorf("%d bytes wait for %s", s.out.size, s.peer.id)
				}
				if s.peer.id == slow.id && !s.lagging {
					t.Error("the slow peer is not demoted")
				}
			}
			return nil
		})
		stuck.Close()
		<-ended
	})
}

func TestLeaseAndHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		cut := connect(a, b)
		a.put("shop", "1")
		settle(time.Hour)
		if e, _ := b.Get(a.key("shop")); e.Lease != feed.LeaseLive || e.Age > 3*time.Minute {
			t.Errorf("lease %s, age %s, want heartbeats", e.Lease, e.Age)
		}
		cut()
		settle(7 * time.Minute)
		if e, _ := b.Get(a.key("shop")); e.Lease != feed.LeaseDelayed {
			t.Errorf("lease %s after 7 silent minutes", e.Lease)
		}
		settle(time.Hour)
		if e, ok := b.Get(a.key("shop")); !ok || e.Lease != feed.LeaseExpired {
			t.Errorf("lease %s after an hour, present %v: want it kept and expired", e.Lease, ok)
		}
		connect(a, b)
		settle(time.Second)
		if e, _ := b.Get(a.key("shop")); e.Lease != feed.LeaseLive {
			t.Errorf("lease %s after the heal", e.Lease)
		}
		if _, err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(time.Millisecond)
		if e, _ := b.Get(a.key("shop")); e.Lease != feed.LeaseExpired {
			t.Errorf("lease %s after a leave", e.Lease)
		}
	})
}
