package attack

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// counter counts what a session hears.
type counter struct {
	mu     sync.Mutex
	size   int
	frames map[byte]int
}

func newCounter() *counter { return &counter{frames: map[byte]int{}} }

func (c *counter) count(t byte, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size += len(body)
	c.frames[t]++
}

func (c *counter) bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

func (c *counter) of(t byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames[t]
}

// A peer says that it has the newest of everything, and gives nothing: one that is asked
// before others, because its copy has been as complete as theirs.
func TestAnnounceAndNeverServe(t *testing.T) {
	attacked(t, 4, func(t *testing.T, f *fleet) {
		author := f.nodes[3]
		var sessions []*session
		for i := range 2 {
			h := f.turncoat(fmt.Sprint("h", i))
			for _, n := range f.nodes[:3] {
				roots := make(chan []byte, 64)
				s := h.link(n).speak(func(kind byte, body []byte) {
					if kind == frameRoot && len(roots) < cap(roots) {
						roots <- body
					}
				})
				s.send(frameRoot, <-roots) // it has all the same
				sessions = append(sessions, s)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var lying sync.WaitGroup
		truth := func() { cancel(); lying.Wait() }
		defer truth()
		lying.Go(func() {
			for i := uint64(1); ctx.Err() == nil; i++ {
				for _, s := range sessions {
					s.claim(headClaim{author.id.String(), 1, 1000 + i, feed.ID{byte(i)}, 1 << 30})
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
		time.Sleep(5 * time.Second) // they are known for it
		for i := range 5 {
			start := time.Now()
			value := fmt.Sprint(i, strings.Repeat("x", 3<<10))
			author.put("large", value) // too large to be pushed: it has to be asked for
			f.all(1500*time.Millisecond, "what is asked for arrives", func(n *node) bool { return n.shows(author.key("large"), value) })
			time.Sleep(max(0, 500*time.Millisecond-time.Since(start)))
		}
		truth()
		f.unharmed()
	})
}

// A peer takes part, and reads nothing.
func TestSlowReader(t *testing.T) {
	attacked(t, 2, func(t *testing.T, f *fleet) {
		h, victim := f.turncoat("h1"), f.nodes[0]
		w := h.link(victim)
		s := &session{w.stream(protoGossip), h, victim}
		s.send(frameCert, h.self.Cert)
		pass(t, time.Second)
		for i := range 3 { // 3 MiB that would be pushed to it
			busy := f.turncoat(fmt.Sprint("h", i+2))
			flow := busy.attach(victim)
			for j := range 1000 {
				flow.record(busy.say(op(busy.key(fmt.Sprint("k", j%64)), strings.Repeat("x", 900))))
			}
		}
		f.unharmed()
		heard := newCounter()
		go s.listen(heard.count)
		pass(t, 5*time.Second)
		if got := heard.bytes(); got > 2<<20 {
			t.Errorf("%d KiB were kept for it", got>>10)
		}
		f.unharmed()
	})
}

// One origin writes all it can.
func TestFloodOfOneOrigin(t *testing.T) {
	t.Run("records", func(t *testing.T) {
		attacked(t, 3, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			start := time.Now()
			for i := range 2500 {
				s.record(h.say(op(h.key("a"), fmt.Sprint(i))))
			}
			f.unharmed()
			for _, n := range f.nodes {
				heads, _ := n.frontier()
				if got, most := heads[feed.FeedID{Origin: h.id, Epoch: 1}].Seq, 1001+100*uint64(time.Since(start)/time.Second+1); got > most {
					t.Errorf("%s took %d records, at most %d", n.id, got, most)
				}
			}
		})
	})
	t.Run("bytes", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			for i := range 100 {
				s.record(h.say(op(feed.KeyOf(h.id, "x-a", fmt.Sprint(i)), strings.Repeat("x", 14<<10))))
			}
			f.unharmed()
			for _, n := range f.nodes {
				entries, _ := n.List(h.id.Path())
				if len(entries) > 80 {
					t.Errorf("%s keeps %d KiB of one node", n.id, 14*len(entries))
				}
			}
		})
	})
}

// One relay hands over more than a second has.
func TestFloodThroughOneRelay(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		rec := frame(frameRecord, h.say(op(h.key("a"), "1")).Bytes())
		many := slices.Repeat(rec, 100)
		start := time.Now()
		go func() {
			for range 300 {
				if _, err := s.Write(many); err != nil {
					return
				}
			}
		}()
		pass(t, time.Second)
		looked := func() float64 { return f.nodes[0].counter("bailiwick_gossip_records_total", "duplicate") }
		eventually(t, time.Millisecond, "its frames are looked at", func() bool { return looked() >= 1000 })
		if got := looked(); got > float64(10000+5000*seconds(start)) {
			t.Errorf("%v of its frames were looked at within %s", got, time.Since(start))
		}
		f.unharmed()
		h.innocent()
	})
}

// A peer sends certificates that nobody issued: each costs more to look at than to send, and
// roots that differ in age are no fault.
func TestFloodOfCertificates(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		bad := slices.Clone(h.self.Cert)
		bad[len(bad)-1]++ // of its signature
		many := slices.Repeat(frame(frameCert, bad), 100)
		start := time.Now()
		for range 50 {
			if _, err := s.Write(many); err != nil {
				t.Fatal(err)
			}
		}
		pass(t, 2*time.Second)
		count := func(as string) float64 { return f.nodes[0].counter("bailiwick_gossip_certificates_total", as) }
		eventually(t, time.Millisecond, "all certificates came", func() bool { return count("refused")+count("unread") >= 5000 })
		if got := count("refused"); got < 1000 || got > float64(1024+5*seconds(start)) {
			t.Errorf("%v of 5000 certificates were looked at within %s", got, time.Since(start))
		}
		f.unharmed()
		h.innocent()
	})
}

// A peer tells heads that nobody has: of feeds that nobody knows, more than can be
// remembered; and in the place of those that all hold.
func TestHeadLies(t *testing.T) {
	t.Run("comparisons", func(t *testing.T) {
		attacked(t, 4, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			heard := newCounter()
			start := time.Now()
			s := h.link(f.nodes[0]).speak(heard.count)
			nothing := frame(frameLeaves, encode(t, []struct { // of all there is, it has none
				Prefix []byte      `cbor:"1,keyasint"`
				Heads  []headClaim `cbor:"2,keyasint"`
			}{{}}))
			many := slices.Repeat(nothing, 100)
			for range rounds(t, 300, 100) {
				if _, err := s.Write(many); err != nil {
					t.Fatal(err)
				}
				pass(t, 20*time.Millisecond)
			}
			pass(t, time.Second)
			eventually(t, time.Millisecond, "it is told heads", func() bool { return heard.bytes() >= 1<<20 })
			f.unharmed()
			if got := heard.bytes(); got > 5<<20+(128<<10)*seconds(start) {
				t.Errorf("it was told %d KiB within %s", got>>10, time.Since(start))
			}
			h.innocent()
		})
	})
	t.Run("news", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			heard := newCounter()
			s := h.link(f.nodes[0]).speak(heard.count)
			start := time.Now()
			for i := range rounds(t, 1000, 300) { // 100,000 feeds with long names, on loopback 30,000
				s.claim(f.madeUp(i)...)
			}
			for _, n := range f.nodes {
				heads, _ := n.frontier()
				for id, head := range heads {
					s.claim(headClaim{id.Origin.String(), id.Epoch, head.Seq, feed.ID{1}, 0}, headClaim{n.id.String(), 7, 1 << 62, feed.ID{2}, 1 << 62})
				}
			}
			f.unharmed()
			h.innocent()
			pass(t, 3*time.Second)
			if got := heard.of(frameWant); got > 256*(seconds(start)+3) { // feeds at once, for a second each
				t.Errorf("it was asked %d times within %s", got, time.Since(start))
			}
		})
	})
}

// madeUp are 100 heads of feeds that do not exist, in the region.
func (f *fleet) madeUp(seed int) (out []headClaim) {
	for i := range 100 {
		out = append(out, headClaim{fmt.Sprintf("%s-%d-%d", f.home.node(strings.Repeat("m", 150)), seed, i), 1, 1 << 40, feed.ID{byte(i)}, 1})
	}
	return out
}

// Those whom a node pushes to pass nothing on: here all of them, for the roster names
// nobody else. What the mesh does not reach hears of new heads by chance. How soon it does,
// virtual time shows.
func TestSilentDroppers(t *testing.T) {
	attacked(t, 1, func(t *testing.T, f *fleet) {
		var droppers []*hostile
		var roster []replica.Member
		for i := range 8 {
			h := f.turncoat(fmt.Sprint("h", i))
			droppers, roster = append(droppers, h), append(roster, replica.Member{ID: h.id})
		}
		for i := range 4 {
			n := newNode(t, f, fmt.Sprint("m", i), func(c *replica.Config) { c.Roster = func() []replica.Member { return roster } })
			f.enrol(n.id, n.self.Cert)
			n.start(t)
			for _, h := range droppers {
				h.attach(n)
			}
			for _, peer := range f.nodes[1:] {
				peer.meet(t, n)
			}
			f.nodes = append(f.nodes, n)
		}
		f.nodes = f.nodes[1:]
		pass(t, 2*time.Second)
		f.measure()
		var took []time.Duration
		for range rounds(t, 11, 2) {
			start := time.Now()
			f.converge(20 * time.Second) // by chance it may be late
			took = append(took, time.Since(start))
			time.Sleep(300 * time.Millisecond)
		}
		if slices.Sort(took); virtual(t) && took[5] > time.Second {
			t.Errorf("writes reach everybody within %s", took)
		}
		f.unharmedWithin(20 * time.Second)
	})
}
