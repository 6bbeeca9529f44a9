package replica

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// under makes nodes that want these terms of everybody.
func under(t *testing.T, size int, terms Terms) (nodes []*node) {
	t.Helper()
	roster := members(size, 4)
	for i := range size {
		nodes = append(nodes, newNodeWith(t, i+1, func(c *Config) {
			c.Roster = func() []Member { return roster }
			c.Terms = func(spiffeid.ID) Terms { return terms }
		}))
	}
	return nodes
}

// pair attaches two nodes by a session of the second version, over streams that take 5 ms
// each way; the result cuts them.
func (c *traffic) pair(a, b *node) (cut func()) {
	ctx, cancel := context.WithCancel(a.t.Context())
	var ends [2][2]io.ReadWriteCloser
	for i := range ends[0] {
		ends[0][i], ends[1][i] = c.wire(a.t, 5*time.Millisecond)
	}
	ended := make(chan struct{}, 2)
	go func() { _ = a.AttachPair(ctx, b.id, ends[0][0], ends[0][1]); ended <- struct{}{} }()
	go func() { _ = b.AttachPair(ctx, a.id, ends[1][0], ends[1][1]); ended <- struct{}{} }()
	return func() {
		cancel()
		<-ended
		<-ended
	}
}

func (c *traffic) all(nodes []*node) {
	for i, a := range nodes {
		for _, b := range nodes[i+1:] {
			c.pair(a, b)
		}
	}
}

// Over thin links of a tree about one copy reaches each node, and when a node of the
// tree goes the others are grafted on again.
func TestTreeCarriesOneCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 14
		nodes, c := under(t, size, Terms{Mode: Tree}), &traffic{}
		c.all(nodes)
		settle(3 * time.Second)
		for i := range 10 { // one after the other: the tree forms
			nodes[i].put("first", "x")
			settle(2 * time.Second)
		}
		converged(t, nodes...)
		before := c.records.Load()
		const writes = 20
		for i := range writes {
			nodes[i%size].put(fmt.Sprint("w", i), "x")
			settle(time.Second)
		}
		settle(3 * time.Second)
		copies := float64(c.records.Load()-before) / writes / (size - 1)
		t.Logf("%.2f copies a node", copies)
		if copies > 1.3 {
			t.Errorf("%.2f copies a node, want about one", copies)
		}
		converged(t, nodes...)

		gone := nodes[3]
		gone.stop()
		rest := append(append([]*node{}, nodes[:3]...), nodes[4:]...)
		settle(time.Second)
		worst := time.Duration(0)
		for i := range 6 {
			worst = max(worst, spread(t, rest, rest[i], fmt.Sprint("after", i), "x"))
			settle(2 * time.Second)
		}
		t.Logf("after one of it has gone: last node after %s", worst)
		// One wait is up to a tick until it is announced, and up to one after it is due; and whoever hears
		// only from those who waited waits again.
		if wait := lazyEvery + graftAfter + lazyEvery; worst > 2*wait {
			t.Errorf("after one of it has gone, the last node shows a write after %s", worst)
		}
	})
}

// Headers keep the debt exact and cost little; bodies come when a reader asks, and what
// an authority signed comes by itself.
func TestHeadersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, c := under(t, 2, Terms{Mode: Headers}), &traffic{}
		a, b := nodes[0], nodes[1]
		cut := c.pair(a, b)
		settle(2 * time.Second)
		for i := range 30 {
			a.put(fmt.Sprint("k", i), strings.Repeat("x", 900))
			settle(time.Second)
		}
		if got := c.records.Load(); got != 0 {
			t.Errorf("%d bodies were sent", got)
		}
		if _, ok := b.Get(a.key("k3")); ok {
			t.Error("a body came all the same")
		}
		ours, err := a.headSeq(t)
		if err != nil {
			t.Fatal(err)
		}
		if d := b.debtNow(); d.Missing.Records != ours {
			t.Errorf("b misses %d records by what is signed, a has %d", d.Missing.Records, ours)
		}
		links, err := b.Links(t.Context())
		if err != nil || len(links) != 1 || links[0].Terms.Mode != Headers || links[0].Sent == 0 {
			t.Errorf("%+v, %v", links, err)
		}
		authority := feed.KeyOf(a.id, feed.KindAuthority, "policy")
		if _, err := a.Put(t.Context(), op(authority, "signed")); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if got := c.records.Load(); got == 0 {
			t.Error("what an authority signed is not sent")
		}
		b.Fetch(a.id)
		settle(20 * time.Second)
		if e, ok := b.Get(a.key("k3")); !ok || len(e.Value) != 900 {
			t.Error("a reader asked for it in vain")
		}
		if d := b.debtNow(); d.Missing.Records != 0 {
			t.Errorf("after that b misses %+v", d.Missing)
		}
		cut()
		for i := range 10 { // while apart
			a.put(fmt.Sprint("apart", i), "x")
		}
		settle(10 * time.Minute)
		c.pair(a, b)
		settle(2 * time.Minute)
		ours, err = a.headSeq(t)
		if err != nil {
			t.Fatal(err)
		}
		held := uint64(0)
		_ = b.do(t.Context(), func() error {
			held = b.chains[a.id].Head(1).Seq
			return nil
		})
		if d := b.debtNow(); held == ours || d.Missing.Records != ours-held {
			t.Errorf("after being apart b holds %d of %d and misses %d", held, ours, d.Missing.Records)
		}
	})
}

// Those behind a link that carries headers know by them what all there lack; and what one
// fetches comes to all.
func TestHeadersArePassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &traffic{}
		far := newNodeWith(t, 1, func(c *Config) {
			c.Terms = func(spiffeid.ID) Terms { return Terms{Mode: Headers} }
		})
		gate, behind, last := newNode(t, 2), newNode(t, 3), newNode(t, 4)
		c.pair(far, gate)
		c.pair(gate, behind)
		c.pair(behind, last)
		settle(2 * time.Second)
		for i := range 5 {
			far.put(fmt.Sprint("k", i), "x")
			settle(time.Second)
		}
		ours, err := far.headSeq(t)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []*node{gate, behind, last} {
			if d := n.debtNow(); d.Missing.Records != ours {
				t.Errorf("%s misses %d records by what is signed, there are %d", n.id, d.Missing.Records, ours)
			}
		}
		gate.Fetch(far.id)
		settle(10 * time.Second)
		for _, n := range []*node{gate, behind, last} {
			if d := n.debtNow(); d.Missing.Records != 0 {
				t.Errorf("after one has fetched it %s misses %+v", n.id, d.Missing)
			}
		}
		converged(t, gate, behind, last)
	})
}

// headSeq is the seq of a node's own head.
func (n *node) headSeq(t *testing.T) (seq uint64, err error) {
	err = n.do(t.Context(), func() error {
		seq = n.chains[n.id].Head(1).Seq
		return nil
	})
	return seq, err
}

// With a budget that lies idle, bodies trickle over a headers link too.
func TestHeadersTrickleWithinABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, c := under(t, 2, Terms{Mode: Headers, Budget: 2 << 10}), &traffic{}
		a, b := nodes[0], nodes[1]
		c.pair(a, b)
		for i := range 20 {
			a.put(fmt.Sprint("k", i), strings.Repeat("x", 900))
		}
		settle(2 * time.Minute)
		converged(t, a, b)
	})
}

// The thinner terms hold, whoever asks for them, and an older peer is served too.
func TestTermsAreAgreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &traffic{}
		full, thin := newNode(t, 1), newNodeWith(t, 2, func(c *Config) {
			c.Terms = func(spiffeid.ID) Terms { return Terms{Mode: Headers, Budget: 4 << 10} }
		})
		cut := c.pair(full, thin)
		settle(time.Second)
		for _, n := range []*node{full, thin} {
			links, err := n.Links(t.Context())
			if err != nil || len(links) != 1 || links[0].Terms != (Terms{Headers, 4 << 10}) {
				t.Errorf("%s: %+v, %v", n.id, links, err)
			}
		}
		cut()
		connect(full, thin) // of the first version: each side keeps to its own
		full.put("k", "x")
		settle(2 * time.Second)
		if _, ok := thin.Get(full.key("k")); !ok {
			t.Error("an older peer's record did not come")
		}
	})
}

// A budget holds for a flood of state, and what an authority signs passes it.
func TestBudgetOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, c := under(t, 2, Terms{Budget: 4 << 10}), &traffic{}
		a, b := nodes[0], nodes[1]
		c.pair(a, b)
		settle(time.Second)
		began := time.Now()
		for i := range 200 {
			a.put(fmt.Sprint("k", i), strings.Repeat("x", 900))
			settle(50 * time.Millisecond)
		}
		key := feed.KeyOf(a.id, feed.KindAuthority, "policy")
		asked := time.Now()
		if _, err := a.Put(t.Context(), op(key, "signed")); err != nil {
			t.Fatal(err)
		}
		parked := func() bool {
			d := b.debtNow()
			return d.Missing.Records > 0 && b.sawHead(t, a)
		}
		for !parked() && time.Since(asked) < 10*time.Second {
			settle(10 * time.Millisecond)
		}
		t.Logf("what an authority signed came after %s", time.Since(asked))
		if time.Since(asked) > 100*time.Millisecond {
			t.Error("it had to wait")
		}
		links, err := a.Links(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		most := 4096*(time.Since(began).Seconds()+4) + 2*maxFrame
		if sent := float64(links[0].Sent); sent > most || sent < most/3 {
			t.Errorf("%.0f bytes in %s, want at most %.0f", sent, time.Since(began), most)
		}
		if links[0].Waiting > leastQueue+hardQueue/2 {
			t.Errorf("%d bytes wait", links[0].Waiting)
		}
		settle(3 * time.Minute) // nothing is lost: it is asked for
		converged(t, a, b)
	})
}

// sawHead reports whether b knows of a's newest record.
func (n *node) sawHead(t *testing.T, of *node) (saw bool) {
	head, err := of.headSeq(t)
	if err != nil {
		t.Fatal(err)
	}
	_ = n.do(t.Context(), func() error {
		c, p := n.chains[of.id], n.peers[of.id]
		f := feed.FeedID{Origin: of.id, Epoch: 1}
		saw = c != nil && (c.Head(1).Seq >= head || p.signed[f].Seq >= head)
		return nil
	})
	return saw
}
