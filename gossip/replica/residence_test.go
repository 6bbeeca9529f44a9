package replica

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const secret = "VALUE-THAT-STAYS"

// away is a Resides that keeps records with a secret value from one node, while it holds.
func away(from spiffeid.ID, holds *atomic.Bool) func(spiffeid.ID, feed.Record) bool {
	return func(node spiffeid.ID, rec feed.Record) bool {
		ops, err := rec.Ops()
		if err != nil || node != from || !holds.Load() {
			return true
		}
		for _, op := range ops {
			if strings.Contains(string(op.Value), secret) {
				return false
			}
		}
		return true
	}
}

// spy notes what a node is sent.
type spy struct {
	net.Conn
	mu   *sync.Mutex
	seen *bytes.Buffer
}

func (s spy) Write(b []byte) (int, error) {
	s.mu.Lock()
	s.seen.Write(b)
	s.mu.Unlock()
	return s.Conn.Write(b)
}

// A record that a node may not hold goes to it as its header, whatever way it would have come: pushed,
// pulled, or told again after a restart. Everybody else gets it, and the node's view of its
// origin ends there.
func TestWithheldFromANode(t *testing.T) {
	for name, value := range map[string]string{"small": secret, "large": secret + strings.Repeat("x", 2*floodSize)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var holds atomic.Bool
				holds.Store(true)
				keep := func(c *Config) { c.Resides = away(nodeID(3), &holds) }
				a, b, c := newNodeWith(t, 1, keep), newNodeWith(t, 2, keep), newNode(t, 3)
				spied := spy{mu: &sync.Mutex{}, seen: &bytes.Buffer{}}
				join := func() {
					for _, n := range []*node{a, b} {
						x, y := net.Pipe()
						at := spied
						at.Conn = x
						go func() { _ = n.Attach(context.Background(), c.id, at) }()
						go func() { _ = c.Attach(t.Context(), n.id, y) }()
						t.Cleanup(func() { x.Close(); y.Close() })
					}
				}
				connect(a, b)
				join()
				settle(time.Second)
				a.put("open", "1")
				settle(2 * time.Second)
				converged(t, a, b, c)
				a.put("kept", value)
				a.put("later", "2")
				b.put("own", "3")
				settle(30 * time.Second)
				converged(t, a, b)
				for key, want := range map[string]bool{a.key("open"): true, a.key("kept"): false, a.key("later"): false, b.key("own"): true} {
					if _, ok := c.Get(key); ok != want {
						t.Errorf("%s there: %v, want %v", key, ok, want)
					}
				}
				if d := c.debtNow().Missing; d.Records != 2 {
					t.Errorf("debt of %d records, want the two after that record", d.Records)
				}
				c.restart()
				join()
				settle(30 * time.Second)
				spied.mu.Lock()
				if bytes.Contains(spied.seen.Bytes(), []byte(secret)) {
					t.Error("the body was sent")
				}
				spied.mu.Unlock()
				if d := c.debtNow().Missing; d.Records != 2 {
					t.Errorf("after a restart: debt of %d records", d.Records)
				}
				holds.Store(false)
				settle(30 * time.Second)
				converged(t, a, b, c)
			})
		})
	}
}

// A node does not take in what it may not hold, though its peers would give it.
func TestNotTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var holds atomic.Bool
		holds.Store(true)
		a, b := newNode(t, 1), newNode(t, 2)
		c := newNodeWith(t, 3, func(c *Config) { c.Resides = away(nodeID(3), &holds) })
		connect(a, b)
		connect(b, c)
		connect(a, c)
		settle(time.Second)
		open := a.put("open", "1")
		a.put("kept", secret)
		a.put("later", "2")
		c.put("own", secret) // its own word
		settle(30 * time.Second)
		if _, ok := c.Get(a.key("kept")); ok {
			t.Error("taken in")
		}
		frontier, _, err := c.Frontier(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if h := frontier[feed.FeedID{Origin: a.id, Epoch: 1}]; h.Seq != open.Seq {
			t.Errorf("the feed ends at %d there, want %d", h.Seq, open.Seq)
		}
		if e, ok := b.Get(c.key("own")); !ok || string(e.Value) != secret {
			t.Error("its own record does not travel")
		}
		holds.Store(false)
		settle(30 * time.Second)
		converged(t, a, b, c)
	})
}

// What a relay forges is not asked about: the answer goes on record under the origin's name.
func TestForgedIsNotAskedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		b := newNodeWith(t, 2, func(c *Config) {
			c.Resides = func(node spiffeid.ID, rec feed.Record) bool {
				if node == nodeID(2) {
					asked.Add(1)
				}
				return true
			}
		})
		victim, relay := newHostile(t, 9), newHostile(t, 8)
		one := victim.sign(feed.Header{Seq: 1, HLC: now()}, op(feed.KeyOf(victim.id, feed.KindService, "shop"), "1"))
		victim.to(b).send(frameRecord, one.Bytes())
		settle(time.Second)
		from := relay.to(b)
		for _, seq := range []uint64{2, 5} { // the next one, and one that would wait
			forged := signAs(t, relay.self, victim.id, feed.Header{Seq: seq, Prev: one.ID(), HLC: now() + 1}, op(feed.KeyOf(victim.id, "x-patient", "a"), secret))
			from.send(frameRecord, forged.Bytes())
			settle(time.Second)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times, want once about the one record that its origin signed", n)
		}
	})
}
