package replica

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func TestParseWantIsBounded(t *testing.T) {
	ranges := func(n int, over ...wantRange) []wantRange {
		for i := range n {
			over = append(over, wantRange{nodeID(i).String(), 1, 1, 64})
		}
		return over
	}
	one := ranges(1)[0]
	long := "spiffe://east.dev.example/" + strings.Repeat("x", maxOrigin)
	for name, c := range map[string]struct {
		wants []wantRange
		good  bool
	}{
		"as many as are asked at once": {ranges(maxPulls), true},
		"one more":                     {ranges(maxPulls + 1), false},
		"two epochs of one origin":     {ranges(1, wantRange{one.Origin, 2, 1, 64}), true},
		"one feed twice":               {ranges(1, wantRange{one.Origin, 1, 70, 80}), false},
		"backwards":                    {[]wantRange{{one.Origin, 1, 2, 1}}, false},
		"from zero":                    {[]wantRange{{one.Origin, 1, 0, 1}}, false},
		"a long origin":                {[]wantRange{{long, 1, 1, 1}}, false},
	} {
		if got, err := parseWant(encode(c.wants)); (err == nil) != c.good || err != nil && !errors.Is(err, errFrame) || err == nil && len(got) != len(c.wants) {
			t.Errorf("%s: %d wants, %v", name, len(got), err)
		}
	}
}

// library is a node with a quarter of a megabyte to ask for.
func library(t *testing.T) *node {
	n := newNode(t, 1)
	page := strings.Repeat("x", 4000)
	for range 20 {
		if _, err := n.Put(t.Context(), op(n.key("a"), page), op(n.key("b"), page), op(n.key("c"), page)); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// asks sends wants for all there is, n frames.
func (h *hostile) asks(n *node, frames int) {
	for range frames {
		h.conn.Write(wantFrame(frameWant, want{n.feed(), 1, 64}))
	}
}

// attachRaw attaches a hostile that reads for itself.
func (h *hostile) attachRaw(n *node) *hostile {
	mine, theirs := net.Pipe()
	on := *h
	on.conn, on.err = mine, make(chan error, 1)
	go func() { on.err <- n.Attach(h.t.Context(), h.id, theirs) }()
	return &on
}

func TestWantsAreAnsweredWithinABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := library(t)
		greedy := newHostile(t, 9).attachRaw(n)
		got := 0
		go func() {
			in := bufio.NewReader(greedy.conn)
			for {
				kind, body, err := readFrame(in)
				if err != nil {
					return
				}
				if kind == frameRecord {
					got += len(body)
				}
			}
		}()
		for second := 1; second <= 3; second++ {
			for range 100 { // the queue has room again in between
				greedy.asks(n, 1)
				synctest.Wait()
			}
			if most := (second + 1) * answerBytes; got > most || got < second*answerBytes/2 {
				t.Errorf("%d bytes within %d seconds, want %d to %d", got, second, second*answerBytes/2, most)
			}
			settle(time.Second)
		}
	})
}

func TestWantsOfWhoDoesNotReadCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := library(t)
		deaf := newHostile(t, 9).attachRaw(n)
		deaf.asks(n, 100)
		synctest.Wait()
		if err := n.do(t.Context(), func() error {
			for s := range n.sessions {
				if read := answerBytes - s.answers.Tokens(); read > 2*softQueue {
					t.Errorf("%.0f bytes were read for a queue of %d", read, softQueue)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		deaf.conn.Close()
	})
}

// A peer that claims more of a feed than there is, again and again, does not stand
// between two that could do without it.
func TestFalseClaimsDoNotSlowCatchingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, liar := newNode(t, 1), newNode(t, 2), newHostile(t, 9)
		for i := range 600 {
			a.put("shop", fmt.Sprint(i))
		}
		on := liar.to(b)
		lie := encode([]headClaim{{Origin: a.id.String(), Epoch: 1, Seq: 1 << 60, ID: feed.ID{9}}})
		go func() {
			for range 300 {
				on.send(frameHeads, lie)
				time.Sleep(20 * time.Millisecond)
			}
		}()
		settle(100 * time.Millisecond)
		connect(a, b)
		settle(4 * time.Second)
		converged(t, a, b)
		settle(4 * time.Second) // until the liar is done
	})
}

// One that is alone with what it claims is asked less and less, and believed again
// once it answers.
func TestSilenceBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, slow := newNode(t, 1), newHostile(t, 9)
		rec := slow.sign(feed.Header{Seq: 1, HLC: now()}, op(feed.KeyOf(slow.id, feed.KindService, "shop"), "1"))
		on := slow.attachRaw(n)
		wants, answer := 0, false
		go func() {
			in := bufio.NewReader(on.conn)
			for {
				kind, _, err := readFrame(in)
				if err != nil {
					return
				}
				if kind == frameWant {
					wants++
					if answer {
						go on.send(frameRecord, rec.Bytes())
					}
				}
			}
		}()
		on.send(frameCert, slow.self.Cert)
		claim := encode([]headClaim{{Origin: slow.id.String(), Epoch: 1, Seq: 1, ID: rec.ID()}})
		tell := func(seconds int) {
			for range seconds {
				on.send(frameHeads, claim)
				settle(time.Second)
			}
		}
		if tell(60); wants < 5 || wants > 12 {
			t.Errorf("%d wants within a minute", wants)
		}
		answer = true
		tell(int(2 * maxSilence / time.Second))
		if e, ok := n.Get(feed.KeyOf(slow.id, feed.KindService, "shop")); !ok || string(e.Value) != "1" {
			t.Error("a peer that answers at last is not asked")
		}
		if err := n.do(t.Context(), func() error {
			if left := len(n.peers[slow.id].silent); left > 0 {
				t.Errorf("%d feeds are still held against it", left)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		on.conn.Close()
	})
}

// What a peer says of feeds that nobody knows is bounded, and goes when it does.
func TestClaimsAreBoundedAndGoWithThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, liar := newNode(t, 1), newHostile(t, 9)
		n.put("shop", "1")
		on := liar.to(n)
		long, origins := strings.Repeat("x", 1900), 0
		body := func() []byte {
			heads := []headClaim{{Origin: n.id.String(), Epoch: 1, Seq: 1, ID: feed.ID{1}}}
			for range 16 {
				origins++
				heads = append(heads, headClaim{Origin: fmt.Sprintf("spiffe://east.dev.example/node/%s%d", long, origins), Epoch: 1, Seq: 1, ID: feed.ID{1}})
			}
			return encode(heads)
		}
		kept := func() (size int) {
			if err := n.do(t.Context(), func() error {
				p := n.peers[liar.id]
				if p == nil {
					return nil // forgotten
				}
				for _, told := range []feed.Frontier{p.claims, p.front, p.ahead} {
					for f := range told {
						size += claimSize(f)
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			return size
		}
		for range 400 {
			on.send(frameHeads, body())
		}
		synctest.Wait()
		if size := kept(); size < maxFrontier*9/10 || size > 3*maxFrontier {
			t.Errorf("%d bytes are kept of an attached peer", size)
		}
		on.conn.Close()
		settle(time.Second)
		if size := kept(); size > claimSize(n.feed()) {
			t.Errorf("%d bytes are kept of one that left", size)
		}
	})
}

// Peers that come and go leave little behind.
func TestLostPeersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		n.put("shop", "1")
		if err := n.do(t.Context(), func() error {
			for i := range maxLost + 50 {
				s := newSession(func(error) {})
				at := n.cfg.Now().Add(time.Duration(i) * time.Second)
				n.attach(nodeID(100+i), s, at)
				n.detach(s, false, at)
			}
			if len(n.peers) != maxLost || n.peers[nodeID(100+49)] != nil || n.peers[nodeID(100+50)] == nil {
				t.Errorf("%d lost peers are remembered, want the last %d", len(n.peers), maxLost)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// What waits for a peer already is not added to the queue again, however often it is asked
// for: behind a link slower than the asker's patience the queue would only grow.
func TestWantsAgainAddNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := library(t)
		slow := newHostile(t, 9).attachRaw(n)
		in := bufio.NewReader(slow.conn)
		got := map[uint64]bool{}
		for range 3 {
			slow.asks(n, 50)
			for had := len(got); len(got) < had+3; { // and reads a little
				kind, body, err := readFrame(in)
				if err != nil {
					t.Fatal(err)
				}
				if kind == frameRecord {
					rec, err := feed.Parse(body)
					if err != nil {
						t.Fatal(err)
					}
					got[rec.Seq] = true
				}
			}
			synctest.Wait()
		}
		if err := n.do(t.Context(), func() error {
			for s := range n.sessions {
				left, added := s.out.passed(classBulk)
				if records := int(n.chains[n.id].Head(1).Seq); int(added-left) > records {
					t.Errorf("%d records wait, of %d that there are", added-left, records)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slow.conn.Close()
	})
}

func TestUnsent(t *testing.T) {
	f := feed.FeedID{Origin: nodeID(1), Epoch: 1}
	s := newSession(func(error) {})
	for range 10 {
		s.out.push(classBulk, []byte("x"))
	}
	s.answered[f] = []answered{{span{30, 34}, 5}, {span{10, 14}, 0}}
	show := func(gaps []span) (out string) {
		for _, g := range gaps {
			out += fmt.Sprintf(" %d-%d", g.from, g.to)
		}
		return out
	}
	for _, c := range []struct {
		taken    int
		from, to uint64
		want     string
	}{
		{0, 1, 50, " 1-9 15-29 35-50"},
		{0, 11, 13, ""},
		{0, 14, 30, " 15-29"},
		{0, 40, 41, " 40-41"},
		{2, 10, 40, " 10-11 15-29 35-40"},
		{4, 10, 31, " 10-30"},
		{4, 30, 50, " 30-50"},
	} {
		for range c.taken {
			s.out.take(rest, rest, nil, 1, time.Time{})
		}
		if got := show(s.unsent(f, c.from, c.to)); got != c.want {
			t.Errorf("of %d to %d, after %d more are gone:%s, want%s", c.from, c.to, c.taken, got, c.want)
		}
	}
	if len(s.answered) > 0 {
		t.Error("what is gone is remembered")
	}
}

func TestAnswerTime(t *testing.T) {
	for name, c := range map[string]struct {
		took        []time.Duration
		least, most time.Duration
	}{
		"nothing is known":       {nil, pullWait, pullWait},
		"soon":                   {[]time.Duration{time.Millisecond, time.Millisecond}, pullWait, pullWait},
		"slow":                   {[]time.Duration{2 * time.Second, 2 * time.Second, 2 * time.Second}, 3 * time.Second, 6 * time.Second},
		"as slow as may be":      {[]time.Duration{time.Hour, time.Hour}, maxSilence, maxSilence},
		"slow once, a while ago": {append([]time.Duration{2 * time.Second}, make([]time.Duration, 40)...), pullWait, pullWait},
	} {
		var a answerTime
		for _, d := range c.took {
			a.took(d)
		}
		if got := a.patience(); got < c.least || got > c.most {
			t.Errorf("%s: %s, want %s to %s", name, got, c.least, c.most)
		}
	}
}
