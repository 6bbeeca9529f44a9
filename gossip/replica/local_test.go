package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func leavesOf(t *testing.T, n *node, kind string) []store.Entry {
	t.Helper()
	all, err := n.store.Outbox(0, 10000)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Entry
	for _, e := range all {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func copyFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func restoreFile(t *testing.T, b []byte, path string) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		const writes = 200
		release := make(chan struct{})
		go n.do(t.Context(), func() error { <-release; return nil }) // a commit under way
		synctest.Wait()
		var all sync.WaitGroup
		for i := range writes {
			all.Go(func() { n.put(fmt.Sprint("k", i), "v") })
		}
		synctest.Wait()
		close(release)
		all.Wait()
		if list, _ := n.List(n.id.Path() + "/service/"); len(list) != writes {
			t.Errorf("%d entries, want %d", len(list), writes)
		}
		if got := len(leavesOf(t, n, LeafOut)); got < writes/groupOps || got > writes/groupOps+3 {
			t.Errorf("%d records for %d writes", got, writes)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		for _, tc := range []struct {
			op   feed.Op
			want error
		}{
			{op("/node/n2/service/shop", "x"), feed.ErrForeign},
			{op("shop", "x"), feed.ErrKey},
			{op("/node/n1/gadget/shop", "x"), feed.ErrSchema},
			{op(n.key("shop"), strings.Repeat("x", 8<<10)), feed.ErrSchema},
		} {
			_, err := n.Put(t.Context(), tc.op)
			wantErr(t, err, tc.want)
		}
		_, err := n.Put(t.Context(), op("/node/n1/x-a/1", strings.Repeat("x", 9<<10)), op("/node/n1/x-a/2", strings.Repeat("x", 9<<10)))
		wantErr(t, err, feed.ErrTooLarge)
		n.put("shop", "fine")
		n.stop()
		_, err = n.Put(t.Context(), op(n.key("shop"), "x"))
		wantErr(t, err, ErrStopped)
	})
}

func TestNoIdentityIsReadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newNode(t, 1), newNode(t, 2)
		a.stop()
		s, err := store.Open(a.path())
		if err != nil {
			t.Fatal(err)
		}
		a.startOn(s)
		b.put("shop", "1")
		connect(a, b)
		settle(time.Second)
		if _, ok := a.Get(b.key("shop")); !ok {
			t.Error("reading needs no identity")
		}
		_, err = a.Put(t.Context(), op(a.key("shop"), "1"))
		wantErr(t, err, ErrNoIdentity)
	})
}

func TestOpenNeedsItsConfig(t *testing.T) {
	if _, err := Open(Config{}); !errors.Is(err, ErrConfig) {
		t.Errorf("error %v", err)
	}
}

// tooOften is a refusal that says by what.
type tooOften struct{ error }

func (tooOften) Why() string { return "rate" }

// Policy decides what is shown here, not what is passed on.
func TestPolicyDecidesApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newNode(t, 1), newNode(t, 2), newNode(t, 3)
		strict := true
		b.deny = func(_ feed.Record, op feed.Op) error {
			if strict && strings.HasSuffix(op.Key, "/secret") {
				return tooOften{errors.New("not here")}
			}
			return nil
		}
		connect(a, b)
		connect(b, c)
		if _, err := a.Put(t.Context(), op(a.key("secret"), "1"), op(a.key("shop"), "1")); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		check := func(n *node, name string, want bool) {
			t.Helper()
			if _, ok := n.Get(a.key(name)); ok != want {
				t.Errorf("%s has %s: %v, want %v", n.id, name, ok, want)
			}
		}
		check(b, "secret", false)
		check(b, "shop", true)
		check(c, "secret", true)
		for name, want := range map[string]bool{"secret": true, "shop": false, "none": false} {
			at, refused, err := b.Refused(t.Context(), a.key(name))
			if err != nil || refused != want || refused && (at.Epoch != 1 || at.Seq == 0) {
				t.Errorf("%s: refused %t in %+v, %v", name, refused, at, err)
			}
		}
		leaves := leavesOf(t, b, LeafRefuse)
		var l Refuse
		if len(leaves) != 1 || statement.Unmarshal(leaves[0].Body, &l) != nil || l.Why != "rate" || l.Key != a.key("secret") {
			t.Errorf("refusals %+v", leaves)
		}
		if got := leavesOf(t, b, LeafIn); len(got) == 0 {
			t.Error("accepted records are not counted in the trail")
		}
		b.restart()
		check(b, "secret", false)
		strict = false
		if err := b.Reconsider(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(b, "secret", true)
		b.restart()
		check(b, "secret", true)
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		n.put("a", "1")
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		var ended sync.WaitGroup
		ended.Go(func() {
			for c, err := range n.Watch(ctx, n.id.Path()+"/service/", 0) {
				if err != nil {
					t.Error(err)
				}
				got = append(got, fmt.Sprint(c.Name, "=", string(c.Value), " ", c.Deleted))
			}
		})
		synctest.Wait()
		n.put("b", "1")
		n.put("a", "2")
		if _, err := n.Delete(t.Context(), n.key("b")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		ended.Wait()
		if want := "[a=1 false b=1 false a=2 false b=1 true]"; fmt.Sprint(got) != want {
			t.Errorf("watched %v, want %s", got, want)
		}
		_, revision := n.List("/")
		for range keptChanges + 10 {
			n.view.mu.Lock()
			n.view.record(Change{})
			n.view.mu.Unlock()
		}
		for _, err := range n.Watch(t.Context(), "/", revision) {
			wantErr(t, err, ErrCompacted)
			break
		}
	})
}

// A feed over its rate waits instead of failing, and writes join meanwhile.
func TestWritesWaitForTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		burst := feed.LimitsOf("node").Burst
		start := time.Now()
		for i := range burst + 50 {
			n.put("shop", fmt.Sprint(i))
		}
		if took := time.Since(start); took < 100*time.Millisecond || took > 2*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestDebtCountsOnlySignedHeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, peer := newNode(t, 1), newHostile(t, 9)
		on := peer.to(n)
		for _, b := range headsFrames(feed.Frontier{peer.key.Feed(): {Seq: 1 << 40, Bytes: 1 << 60}}) {
			on.conn.Write(b)
		}
		settle(5 * time.Second)
		if d := n.debtNow(); d.Missing.Records != 0 {
			t.Fatalf("debt %+v from a peer's word", d)
		}
		seal, err := feed.SignSeal(peer.self.Signer, peer.key.Feed(), 7, feed.ID{7})
		if err != nil {
			t.Fatal(err)
		}
		on.send(frameSeal, seal)
		settle(5 * time.Second)
		if d := n.debtNow(); d.Missing.Records != 7 || d.Missing.Oldest < 5*time.Second {
			t.Fatalf("debt %+v, want 7 records", d)
		}
	})
}
