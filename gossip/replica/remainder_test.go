package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A newer epoch that goes on from the middle of a snapshot leaves the rest of it:
// who was there starts again with it, and who joins later holds the same.
func TestRestOfASnapshot(t *testing.T) {
	part := func(base uint64, parts uint16) feed.Header {
		return feed.Header{Kind: feed.Snapshot, Base: base, Parts: parts}
	}
	for name, tc := range map[string]struct {
		old   []feed.Header // after one ordinary record
		since uint64
	}{
		"complete":  {[]feed.Header{part(2, 3), part(2, 3), part(2, 3)}, 2},
		"cut short": {[]feed.Header{part(2, 1), part(3, 4), part(3, 4), {Base: 2}}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, late, h := newNode(t, 1), newNode(t, 3), newHostile(t, 2)
				on := h.to(b)
				shop := feed.KeyOf(h.id, feed.KindService, "shop")
				restated := func(i int) feed.Op {
					o := op(feed.KeyOf(h.id, feed.KindService, string(rune('a'+i))), "x")
					o.Written = &feed.Written{Epoch: 1, Seq: 1, Record: feed.ID{1}, HLC: now()}
					return o
				}
				var written []feed.Record
				for i, head := range append([]feed.Header{{}}, tc.old...) {
					time.Sleep(10 * time.Millisecond)
					head.Seq, head.HLC = uint64(i+1), now()
					if i > 0 {
						head.Prev = written[i-1].ID()
					}
					ops := []feed.Op{op(shop, "1")}
					if head.Kind == feed.Snapshot {
						ops = []feed.Op{restated(i)}
					}
					written = append(written, h.sign(head, ops...))
					on.send(frameRecord, written[i].Bytes())
				}
				settle(time.Second)
				second := newIdentity(t, h.id, 2)
				on.send(frameCert, second.Cert)
				on.send(frameRecord, signAs(t, second, h.id, feed.Header{
					Kind: feed.Snapshot, Seq: 1, Prev: written[tc.since-1].ID(), HLC: now(), Base: 1, Parts: 1, Since: []feed.Place{{Epoch: 1, Seq: tc.since}},
				}, restated(0)).Bytes())
				settle(time.Second)
				if got, want := inStore(t, b, bucketRecords, h.key.Feed()), len(written)-int(tc.since); got != want {
					t.Fatalf("%d records of the old epoch are kept, want %d", got, want)
				}
				b.restart()
				connect(b, late)
				settle(5 * time.Second)
				converged(t, b, late)
				if d := late.debtNow(); d.Missing.Records != 0 {
					t.Errorf("debt %+v", d.Missing)
				}
			})
		})
	}
}

// What another node's feed looks like on this disk does not keep this node from
// starting: it drops the feed, says so, and has it from its peers again.
func TestStoredFeedThatDoesNotChain(t *testing.T) {
	for name, damage := range map[string]func(tx *store.Tx, f feed.FeedID) error{
		"a gap": func(tx *store.Tx, f feed.FeedID) error { return tx.Delete(bucketRecords, recordKey(f, 2)) },
		"no record": func(tx *store.Tx, f feed.FeedID) error {
			return tx.Put(bucketRecords, recordKey(f, 3), []byte("x"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newNode(t, 1), newNode(t, 2)
				cut := connect(a, b)
				for _, v := range []string{"1", "2", "3", "4"} {
					a.put("shop", v)
				}
				b.put("own", "1")
				settle(2 * time.Second)
				cut()
				if err := b.store.Update(func(tx *store.Tx) error { return damage(tx, a.feed()) }); err != nil {
					t.Fatal(err)
				}
				b.restart()
				if _, ok := b.Get(a.key("shop")); ok {
					t.Error("part of a feed that does not chain is shown")
				}
				if leaves := leavesOf(t, b, LeafRefuse); len(leaves) != 1 {
					t.Errorf("%d refusals in the trail, want 1", len(leaves))
				}
				connect(a, b)
				settle(3 * time.Second)
				converged(t, a, b)
				if e, ok := b.Get(a.key("shop")); !ok || string(e.Value) != "4" {
					t.Errorf("b shows %q", e.Value)
				}
				if got := inStore(t, b, bucketRecords, a.feed()); got != 4 {
					t.Errorf("%d records are kept, want 4", got)
				}
				if len(b.found())+len(a.rewound) > 0 {
					t.Errorf("findings %+v, rewound %v", b.found(), a.rewound)
				}

				if err := b.store.Update(func(tx *store.Tx) error { return tx.Put(bucketRecords, recordKey(b.feed(), 1), []byte("x")) }); err != nil {
					t.Fatal(err)
				}
				b.stop()
				s, err := store.Open(b.path())
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				cfg := b.cfg
				cfg.Store, cfg.Metrics = s, nil
				_, err = Open(cfg)
				wantErr(t, err, feed.ErrChain)
			})
		})
	}
}
