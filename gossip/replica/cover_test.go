package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// checkpointNow does what an authority does every minute.
func (n *node) checkpointNow() {
	n.t.Helper()
	heads, _, err := n.Frontier(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	ops, err := n.Covers(n.t.Context(), testCheckpoint(n.t, heads), time.Now(), time.Minute, heads)
	if err != nil {
		n.t.Fatal(err)
	}
	if len(ops) > 0 {
		if _, err := n.Put(n.t.Context(), ops...); err != nil {
			n.t.Fatal(err)
		}
	}
}

// authority has one make checkpoints for d of fake time.
func (n *node) authority(d time.Duration) {
	for range d / time.Minute {
		time.Sleep(time.Minute)
		n.checkpointNow()
	}
	settle(2 * time.Second)
}

func TestBackDatingWithAStolenExpiredKeyIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boss, b, origin := newNode(t, 1), newNode(t, 2), newHostile(t, 9)
		origin.self = newIdentityFor(t, origin.id, 1, 10*time.Minute)
		connect(boss, b)
		shop := feed.KeyOf(origin.id, feed.KindService, "shop")
		one := origin.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "1"))
		two := origin.sign(feed.Header{Seq: 2, Prev: one.ID(), HLC: now() + 1}, op(shop, "2"))
		on := origin.to(b)
		on.send(frameRecord, one.Bytes())
		on.send(frameRecord, two.Bytes())
		settle(time.Second)
		on.conn.Close()
		stolen := origin.sign(feed.Header{Seq: 3, Prev: two.ID(), HLC: two.HLC + 1}, op(shop, "dated back"))
		other := origin.sign(feed.Header{Seq: 1, HLC: one.HLC + 1}, op(shop, "another past"))
		boss.authority(20 * time.Minute)
		if got, _ := boss.List(feed.KeyOf(boss.id, feed.KindCover, "")); len(got) != 1 {
			t.Fatalf("%d covers for one expired feed", len(got))
		}

		late := newNode(t, 3) // joins when the certificate has long ended
		thief := origin.to(late)
		thief.send(frameRecord, other.Bytes()) // before it knows any better
		settle(time.Second)
		if _, ok := late.Get(shop); ok {
			t.Fatal("a record under an expired certificate counts with nothing to cover it")
		}
		connect(b, late)
		settle(5 * time.Second)
		for _, n := range []*node{boss, b, late} {
			origin.to(n).send(frameRecord, stolen.Bytes())
		}
		settle(5 * time.Second)
		for range 2 {
			for _, n := range []*node{boss, b, late} {
				if e, ok := n.Get(shop); !ok || string(e.Value) != "2" {
					t.Errorf("%s shows %q", n.id, e.Value)
				}
				if len(n.found()) > 0 {
					t.Errorf("%s: findings %+v", n.id, n.found())
				}
			}
			converged(t, boss, b, late)
			late.restart()
			thief = origin.to(late)
			thief.send(frameRecord, stolen.Bytes())
			settle(time.Second)
		}
		why := 0
		for _, l := range leavesOf(t, late, LeafRefuse) {
			var r Refuse
			if statement.Unmarshal(l.Body, &r) == nil && r.Why == feed.Uncovered.String() {
				why++
			}
		}
		if why == 0 {
			t.Error("the refusal is not in the trail")
		}
	})
}

// A node that was cut off with its certificate running out keeps what it wrote: the
// records wait at the others, as debt, for the renewal.
func TestRenewalCoversWhatWasWrittenCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boss, a := newNode(t, 1), newNode(t, 2)
		a.self = newIdentityFor(t, a.id, 2, 10*time.Minute)
		if err := a.SetIdentity(t.Context(), a.self); err != nil {
			t.Fatal(err)
		}
		a.put("shop", "1")
		time.Sleep(20 * time.Minute)
		connect(boss, a)
		boss.authority(5 * time.Minute)
		if _, ok := boss.Get(a.key("shop")); ok {
			t.Fatal("taken under an expired certificate")
		}
		if d := boss.debtNow(); d.Missing.Records == 0 {
			t.Error("no debt is shown")
		}
		key, err := keyFunc(a.self.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SetIdentity(t.Context(), renew(t, a.self, key, time.Hour)); err != nil {
			t.Fatal(err)
		}
		a.put("late", "1")
		settle(5 * time.Second)
		converged(t, boss, a)
		if d := boss.debtNow(); d.Missing.Records > 0 {
			t.Errorf("debt %+v", d)
		}
	})
}

func TestCoversComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boss, a := newNode(t, 1), newNode(t, 2)
		a.self = newIdentityFor(t, a.id, 2, 10*time.Minute)
		if err := a.SetIdentity(t.Context(), a.self); err != nil {
			t.Fatal(err)
		}
		connect(boss, a)
		a.put("shop", "1")
		count := func() int {
			got, _ := boss.List(feed.KeyOf(boss.id, feed.KindCover, ""))
			return len(got)
		}
		if boss.authority(5 * time.Minute); count() != 0 {
			t.Error("covered long before the end")
		}
		if boss.authority(4 * time.Minute); count() != 1 {
			t.Error("not covered shortly before the end")
		}
		key, err := keyFunc(a.self.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SetIdentity(t.Context(), renew(t, a.self, key, time.Hour)); err != nil {
			t.Fatal(err)
		}
		a.put("late", "1")
		if boss.authority(2 * time.Minute); count() != 0 {
			t.Error("still covered though it was renewed")
		}
	})
}

// A cover is kept before anything of its feed is known, and through a restart.
func TestCoverIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, carrier, origin := newNode(t, 1), newHostile(t, 8), newHostile(t, 9)
		origin.self = newIdentityFor(t, origin.id, 1, 10*time.Minute)
		shop := feed.KeyOf(origin.id, feed.KindService, "shop")
		one := origin.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "1"))
		heads := feed.Frontier{origin.key.Feed(): {Seq: 1, ID: one.ID()}}
		covers, err := feed.MakeCovers(testCheckpoint(t, heads), heads, func(feed.FeedID) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		key := feed.KeyOf(carrier.id, feed.KindCover, feed.CoverName(origin.key.Feed()))
		carrier.to(n).send(frameRecord, carrier.sign(feed.Header{Seq: 1, HLC: now()}, op(key, string(covers[origin.key.Feed()]))).Bytes())
		settle(time.Second)
		n.restart()
		origin.to(n).send(frameRecord, one.Bytes())
		settle(time.Second)
		if _, ok := n.Get(shop); !ok {
			t.Error("a covered record is not taken after a restart")
		}
	})
}

// keptCovers returns how many covers a node has in memory, and on disk.
func (n *node) keptCovers() (memory, disk int) {
	n.t.Helper()
	if err := n.do(n.t.Context(), func() error { memory = len(n.covers); return nil }); err != nil {
		n.t.Fatal(err)
	}
	err := n.store.View(func(tx *store.Tx) error {
		tx.Range(bucketCovers, nil, func(_, _ []byte) bool { disk++; return true })
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return memory, disk
}

// A cover goes when a newer epoch's snapshot stands for what it covers; what it kept
// out stays out.
func TestCoversOfSupersededFeedsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, carrier, origin := newNode(t, 1), newHostile(t, 8), newHostile(t, 9)
		origin.self = newIdentityFor(t, origin.id, 1, 10*time.Minute)
		shop := feed.KeyOf(origin.id, feed.KindService, "shop")
		one := origin.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "1"))
		two := origin.sign(feed.Header{Seq: 2, Prev: one.ID(), HLC: now() + 1}, op(shop, "2"))
		forged := origin.sign(feed.Header{Seq: 3, Prev: two.ID(), HLC: now() + 2}, op(shop, "dated back"))
		old := feed.FeedID{Origin: origin.id, Epoch: 1}
		heads := feed.Frontier{old: {Seq: 2, ID: two.ID()}}
		covers, err := feed.MakeCovers(testCheckpoint(t, heads), heads, func(feed.FeedID) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		cover := op(feed.KeyOf(carrier.id, feed.KindCover, feed.CoverName(old)), string(covers[old]))
		first := carrier.sign(feed.Header{Seq: 1, HLC: now()}, cover)
		carrier.to(n).send(frameRecord, first.Bytes())
		on := origin.to(n)
		want := func(when string, kept int, value string) {
			t.Helper()
			settle(2 * time.Second)
			if memory, disk := n.keptCovers(); memory != kept || disk != kept {
				t.Errorf("%s: %d covers in memory, %d on disk, want %d", when, memory, disk, kept)
			}
			if e, _ := n.Get(shop); string(e.Value) != value || len(n.found()) > 0 {
				t.Errorf("%s: shows %q, findings %v", when, e.Value, n.found())
			}
		}
		want("nothing is held", 1, "")
		on.send(frameRecord, one.Bytes())
		on.send(frameRecord, two.Bytes())
		want("all is held", 1, "2")
		origin.self = newIdentity(t, origin.id, 2)
		on.send(frameCert, origin.self.Cert)
		restated := op(shop, "2")
		restated.Written = &feed.Written{Epoch: 1, Seq: 2, Record: two.ID(), HLC: two.HLC}
		on.send(frameRecord, origin.sign(feed.Header{
			Kind: feed.Snapshot, Seq: 1, Prev: two.ID(), HLC: now(), Base: 1, Parts: 1, Since: []feed.Place{{Epoch: 1, Seq: 2}},
		}, restated).Bytes())
		want("a newer epoch restates it", 0, "2")
		carrier.to(n).send(frameRecord, carrier.sign(feed.Header{Seq: 2, Prev: first.ID(), HLC: now()}, cover).Bytes())
		want("told again", 0, "2")
		for range 2 {
			on.send(frameRecord, forged.Bytes())
			want("a forger comes", 0, "2")
			if got := inStore(t, n, bucketRecords, old); got > 0 {
				t.Errorf("%d records of the old epoch are kept", got)
			}
			n.restart()
			on = origin.to(n)
		}
	})
}
