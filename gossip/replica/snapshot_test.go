package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// inStore counts what a node's store holds of a feed.
func inStore(t *testing.T, n *node, bucket string, f feed.FeedID) (count int) {
	t.Helper()
	err := n.store.View(func(tx *store.Tx) error {
		tx.Range(bucket, feedKey(f), func(k, _ []byte) bool {
			if inFeed(k, f) {
				count++
			}
			return inFeed(k, f)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func (n *node) feed() feed.FeedID { return feed.FeedID{Origin: n.id, Epoch: 1} }

// fill writes until one more write makes a snapshot due.
func (n *node) fill() (written int) {
	n.t.Helper()
	big := strings.Repeat("x", 3<<10)
	for due := false; !due; written++ {
		n.put(fmt.Sprint("fill", written%3), fmt.Sprint(written, big))
		time.Sleep(20 * time.Millisecond)
		if err := n.do(n.t.Context(), func() error { due = n.writer.SnapshotDue(); return nil }); err != nil {
			n.t.Fatal(err)
		}
	}
	return written
}

func TestSnapshotReplacesHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		cut := connect(a, b)
		a.put("shop", "1")
		a.put("gone", "1")
		if _, err := a.Delete(t.Context(), a.key("gone")); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		before, _ := a.Get(a.key("shop"))
		written := a.fill()
		settle(time.Second)
		_, revision := b.List("/")
		last := a.put("late", "1")
		settle(3 * time.Second)
		for _, n := range []*node{a, b} {
			if got := inStore(t, n, bucketRecords, a.feed()); got > 5 {
				t.Errorf("%s keeps %d of %d records", n.id, got, written)
			}
			if got := inStore(t, n, bucketHeaders, a.feed()); got < written {
				t.Errorf("%s keeps %d headers", n.id, got)
			}
			e, ok := n.Get(a.key("shop"))
			if ok != true || e.Record != before.Record || e.Seq != before.Seq || e.HLC != before.HLC {
				t.Errorf("%s shows %+v, before %+v", n.id, e, before)
			}
		}
		if got := len(leavesOf(t, a, LeafOut)); uint64(got) != last.Seq {
			t.Errorf("%d records in the trail, want %d", got, last.Seq)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for c := range b.Watch(ctx, "/", revision) {
			if c.Name != "late" {
				t.Errorf("restated %s is news to a watcher", c.Name)
			}
		}
		converged(t, a, b)

		c := newNode(t, 3) // has never heard of any of it
		connect(b, c)
		settle(3 * time.Second)
		converged(t, a, b, c)
		if e, _ := c.Get(a.key("shop")); e.Record != before.Record || e.HLC != before.HLC || string(e.Value) != "1" {
			t.Errorf("the late one shows %+v", e)
		}
		if _, ok := c.Get(a.key("gone")); ok {
			t.Error("a deleted key came back")
		}
		var in Refuse
		for _, l := range leavesOf(t, c, LeafIn) {
			if got := (In{}); statement.Unmarshal(l.Body, &got) == nil && got.Origin == a.id.String() {
				in.Seq = got.Last
			}
		}
		if in.Seq != last.Seq {
			t.Errorf("the late one's trail ends at %d, want %d", in.Seq, last.Seq)
		}
		for _, n := range []*node{a, b, c} {
			if d := n.debtNow(); d.Missing.Records+d.Owed.Records > 0 {
				t.Errorf("%s: debt %+v at rest", n.id, d)
			}
		}
		cut()
		for _, n := range []*node{a, b, c} {
			n.restart()
		}
		converged(t, a, b, c)
		connect(a, b)
		connect(b, c)
		a.put("shop", "2")
		settle(time.Second)
		converged(t, a, b, c)
		if len(a.found())+len(b.found())+len(c.found())+len(a.rewound) > 0 {
			t.Error("a snapshot is no fault")
		}
	})
}

// A node that was away longer than history is kept gets snapshot and tail, and
// its debt says so: not the history it will never see.
func TestCatchingUpTakesSnapshotAndTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		cut := connect(a, b)
		a.put("shop", "1")
		settle(2 * time.Second)
		cut()
		a.fill()
		a.put("shop", "2")
		settle(time.Second)
		start := uint64(0)
		_ = a.do(t.Context(), func() error { start = a.chains[a.id].Start(1); return nil })
		connect(a, b)
		settle(3 * time.Second)
		converged(t, a, b)
		if got := inStore(t, b, bucketRecords, a.feed()); got > 5 || start < 50 {
			t.Errorf("%d records after catching up from %d", got, start)
		}
		if d := b.debtNow(); d.Missing.Records > 0 {
			t.Errorf("debt %+v", d)
		}
	})
}

// What a peer that has compacted says of its head is a debt of snapshot and tail.
func TestDebtCountsFromTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, h := newNode(t, 1), newHostile(t, 9)
		on := h.to(n)
		head := h.sign(feed.Header{Seq: 1000, HLC: now(), Base: 990})
		on.send(frameHeader, head.Statement())
		settle(time.Millisecond)
		if d := n.debtNow(); d.Missing.Records != 11 {
			t.Errorf("debt %+v, want 11 records", d)
		}
		n.put("shop", "1")
		n.fill()
		n.put("late", "1")
		start := time.Now()
		settle(time.Hour)
		for _, p := range n.debtNow().Peers { // it has told of nothing that it holds
			if p.Owed.Records < 2 || p.Owed.Records > 30 || p.Owed.Oldest > time.Since(start)+time.Second {
				t.Errorf("owed %+v, want snapshot and tail", p.Owed)
			}
		}
	})
}

// snapshotOf is a snapshot in one record, after seq-1 with ID prev.
func (h *hostile) snapshotOf(seq uint64, prev feed.ID, ops ...feed.Op) feed.Record {
	for i := range ops {
		ops[i].Written = &feed.Written{Epoch: 1, Seq: 1, HLC: now()}
	}
	return h.sign(feed.Header{Kind: feed.Snapshot, Seq: seq, Prev: prev, HLC: now(), Base: seq, Parts: 1}, ops...)
}

// A fork about a record that is pruned everywhere is proven by its kept header,
// and all nodes end with the same: nothing, where the last common record is gone.
func TestForkAboutPrunedHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 3)
		liar := newHostile(t, 9)
		shop := feed.KeyOf(liar.id, feed.KindService, "shop")
		on := liar.to(nodes[0])
		one := liar.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "1"))
		two := liar.sign(feed.Header{Seq: 2, Prev: one.ID(), HLC: now() + 1}, op(shop, "2"))
		on.send(frameRecord, one.Bytes())
		on.send(frameRecord, two.Bytes())
		settle(time.Second)
		on.send(frameRecord, liar.snapshotOf(3, two.ID(), op(shop, "2")).Bytes())
		settle(time.Second)
		for _, n := range nodes {
			if e, ok := n.Get(shop); !ok || string(e.Value) != "2" || inStore(t, n, bucketRecords, liar.key.Feed()) != 1 {
				t.Fatalf("%s shows %q", n.id, e.Value)
			}
		}
		on.send(frameRecord, liar.sign(feed.Header{Seq: 2, Prev: one.ID(), HLC: two.HLC + 1}, op(shop, "x")).Bytes())
		settle(3 * time.Second)
		for _, n := range nodes {
			if got := n.found(); len(got) != 1 || got[0].Class != feed.ClassEquivocation || got[0].LastGood != 1 {
				t.Errorf("%s: findings %+v", n.id, got)
			}
			if e, ok := n.Get(shop); ok {
				t.Errorf("%s shows %q of a feed whose last good record is gone", n.id, e.Value)
			}
		}
		converged(t, nodes...)
		nodes[1].restart()
		if _, ok := nodes[1].Get(shop); ok {
			t.Error("a restart brought it back")
		}
	})
}

// Two sides that were told different things find out when they meet, though one
// has pruned the place where the histories part.
func TestForkIsFoundOnMeetingAfterPruning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, liar := newNode(t, 1), newNode(t, 2), newHostile(t, 9)
		shop := feed.KeyOf(liar.id, feed.KindService, "shop")
		one := liar.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "1"))
		left, right := liar.to(a), liar.to(b)
		left.send(frameRecord, one.Bytes())
		left.send(frameRecord, liar.sign(feed.Header{Seq: 2, Prev: one.ID(), HLC: now() + 1}, op(shop, "a")).Bytes())
		prev := one
		right.send(frameRecord, one.Bytes())
		for seq := uint64(2); seq < 8; seq++ {
			prev = liar.sign(feed.Header{Seq: seq, Prev: prev.ID(), HLC: now() + feed.HLC(seq)}, op(shop, "b"))
			right.send(frameRecord, prev.Bytes())
		}
		settle(time.Second)
		right.send(frameRecord, liar.snapshotOf(8, prev.ID(), op(shop, "b")).Bytes())
		settle(time.Second)
		if inStore(t, b, bucketRecords, liar.key.Feed()) != 1 {
			t.Fatal("b has not pruned")
		}
		left.conn.Close()
		right.conn.Close()
		connect(a, b)
		settle(3 * time.Second)
		for _, n := range []*node{a, b} {
			if got := n.found(); len(got) == 0 || got[0].Accused != liar.id || got[0].LastGood != 1 {
				t.Errorf("%s: findings %+v", n.id, got)
			}
		}
	})
}

// Whoever asks for what is pruned is shown the header of the first of it, as long as
// that is kept: it tells whether the asker's history is this one.
func TestPrunedRecordsAreAnsweredByAHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		n.put("shop", "1")
		n.fill()
		n.put("late", "1")
		mine, theirs := newPipe()
		go n.Attach(t.Context(), nodeID(9), theirs)
		var seqs []uint64
		go func() {
			in := bufio.NewReader(mine)
			for {
				t, body, err := readFrame(in)
				if err != nil {
					return
				}
				if h, err := feed.ParseSigned(body); t == frameHeader && err == nil {
					seqs = append(seqs, h.Seq)
				}
			}
		}()
		if _, err := mine.Write(wantFrame(frameWant, want{n.feed(), 2, 60})); err != nil {
			t.Fatal(err)
		}
		settle(time.Millisecond)
		heads, _, _ := n.Frontier(t.Context())
		if len(seqs) != 2 || seqs[0] != 2 || seqs[1] != heads[n.feed()].Seq {
			t.Errorf("headers of %v, want 2 and %d", seqs, heads[n.feed()].Seq)
		}
		mine.Close()
		synctest.Wait()
	})
}

// The commit in which a snapshot replaces history is broken before and after it
// lands, at its owner and at a follower.
func TestBrokenCompaction(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for at := 1; at <= 4; at++ {
			for _, owner := range []bool{true, false} {
				t.Run(fmt.Sprint(fault, "/", at, "/owner=", owner), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { breakCompaction(t, fault, at, owner) })
				})
			}
		}
	}
}

func breakCompaction(t *testing.T, fault store.Fault, at int, owner bool) {
	a, b := newNode(t, 1), newNode(t, 2)
	cut := connect(a, b)
	a.put("shop", "1")
	a.fill()
	settle(2 * time.Second)
	cut()
	victim := b
	if owner {
		victim = a
	}
	victim.stop()
	armed := 0
	s, err := store.OpenFaulty(victim.path(), func(int) store.Fault {
		if armed++; armed == at {
			return fault
		}
		return store.NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	victim.startOn(s)
	if owner {
		_ = victim.SetIdentity(t.Context(), victim.self)
	}
	cut = connect(a, b)
	for i := range 6 {
		_, _ = a.Put(t.Context(), op(a.key(fmt.Sprint("late", i)), "1"))
		settle(100 * time.Millisecond)
	}
	settle(time.Second)
	if armed < at {
		t.Fatal("the fault did not happen")
	}
	cut()
	victim.restart()
	connect(a, b)
	a.put("after", "1")
	settle(3 * time.Second)
	converged(t, a, b)
	for _, n := range []*node{a, b} {
		if e, ok := n.Get(a.key("shop")); !ok || string(e.Value) != "1" {
			t.Errorf("%s shows %q", n.id, e.Value)
		}
		if got := inStore(t, n, bucketRecords, a.feed()); got > 15 {
			t.Errorf("%s keeps %d records", n.id, got)
		}
		if len(n.found())+len(n.rewound) > 0 {
			t.Errorf("%s: findings %+v, rewound %v", n.id, n.found(), n.rewound)
		}
	}
}

// Policy is not asked again about what it let apply, and what it refused stays
// refused under the snapshot that restates it.
func TestSnapshotKeepsWhatPolicyDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		strict := false
		b.deny = func(_ feed.Record, op feed.Op) error {
			if strings.HasSuffix(op.Key, "/secret") || strict && strings.HasSuffix(op.Key, "/shop") {
				return fmt.Errorf("not here")
			}
			return nil
		}
		connect(a, b)
		a.put("secret", "1")
		a.put("shop", "1")
		settle(time.Second)
		strict = true
		a.fill()
		a.put("late", "1")
		settle(3 * time.Second)
		for range 2 {
			if _, ok := b.Get(a.key("secret")); ok {
				t.Error("a snapshot brought in what policy refused")
			}
			if _, ok := b.Get(a.key("shop")); !ok {
				t.Error("a snapshot took away what policy had let apply")
			}
			b.restart()
		}
	})
}

// A new epoch begins with a snapshot, which leaves of the old one only what it
// did not know of.
func TestNewEpochPrunesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		cut := connect(a, b)
		a.put("shop", "1")
		a.put("gone", "1")
		settle(time.Second)
		cut()
		b.stop()
		a.stop()
		copied := copyFile(t, a.path())
		a.start()
		b.start()
		cut = connect(a, b)
		a.put("lost", "1") // only b keeps it
		a.put("shop", "2") // likewise
		settle(time.Second)
		cut()
		a.stop()
		restoreFile(t, copied, a.path())
		a.self = newIdentity(t, a.id, 2)
		a.start()
		if _, err := a.Delete(t.Context(), a.key("gone")); err != nil {
			t.Fatal(err)
		}
		connect(a, b)
		c := newNode(t, 3)
		connect(b, c)
		settle(3 * time.Second)
		converged(t, a, b, c)
		for _, n := range []*node{a, b, c} {
			if got := inStore(t, n, bucketRecords, a.feed()); got != 2 {
				t.Errorf("%s keeps %d records of the old epoch, want those that were not gone on from", n.id, got)
			}
			if e, ok := n.Get(a.key("lost")); !ok || !e.Rewind {
				t.Errorf("%s: %+v is not shown as rewound", n.id, e)
			}
			if e, ok := n.Get(a.key("shop")); !ok || e.Rewind || e.Epoch != 1 || string(e.Value) != "1" {
				t.Errorf("%s shows %+v", n.id, e)
			}
			if _, ok := n.Get(a.key("gone")); ok {
				t.Errorf("%s: a deleted key came back", n.id)
			}
			if len(n.found()) > 0 {
				t.Errorf("%s: %+v", n.id, n.found())
			}
		}
		for _, n := range []*node{a, b, c} {
			n.restart()
		}
		converged(t, a, b, c)
	})
}

// What a newer version's kinds refuse, or a smaller class has no room for, does not
// keep the node from writing.
func TestSnapshotThatCannotHoldEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		old := feed.KeyOf(n.id, "x-old", "1")
		if _, err := n.Put(t.Context(), op(old, "1")); err != nil {
			t.Fatal(err)
		}
		n.put("shop", "1")
		n.fill()
		n.over = func(cfg *Config) {
			cfg.Kinds = feed.DefaultKinds().With("x-old", func(string, []byte) error { return errors.New("not any more") })
		}
		n.restart()
		n.put("late", "1")
		settle(time.Second)
		if got := inStore(t, n, bucketRecords, n.feed()); got > 5 {
			t.Errorf("%d records are kept", got)
		}
		if _, ok := n.Get(old); ok {
			t.Error("what cannot be restated stays")
		}
		if _, ok := n.Get(n.key("shop")); !ok {
			t.Error("what can be restated is gone")
		}

		big := strings.Repeat("x", 4000)
		for i := range 80 { // more than the smallest class allows
			n.put(fmt.Sprint("big", i), big)
			time.Sleep(20 * time.Millisecond)
		}
		n.over = func(cfg *Config) {
			cfg.Keys = func(der []byte) (feed.EpochKey, error) {
				key, err := keyFunc(der)
				if key.Epoch == 2 {
					key.Class = "probation"
				}
				return key, err
			}
		}
		n.self = newIdentity(t, n.id, 2)
		n.restart()
		if got := n.put("after", "1"); got.Epoch != 2 || got.Seq != 1 {
			t.Errorf("wrote %+v", got)
		}
		if _, ok := n.Get(n.key("big7")); !ok {
			t.Error("state of the old epoch is gone without a snapshot")
		}
	})
}
