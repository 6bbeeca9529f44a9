package attack

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

// These attacks are named after outages that others have published; TestSchemaBackfillStorm
// is the third.

// One record makes whatever uses it wait for ever, on every node within milliseconds
// (fly.io's Corrosion, 2024-09-01: a lock that an if let held). Every node notices,
// starts again twice, and from then on lives with the record: it is passed on, and
// used by nobody.
func TestContagiousDeadlock(t *testing.T) {
	release := make(chan struct{})
	hangs := func(c *replica.Config) {
		c.Apply = func(_ feed.Record, op feed.Op) error {
			if string(op.Value) == "deadlock" {
				<-release
			}
			return nil
		}
	}
	attackedInVirtualTime(t, 0, func(t *testing.T, f *fleet) {
		release = make(chan struct{}) // of this bubble
		t.Cleanup(func() { close(release) })
		f.grow(3, hangs)
		h := f.turncoat("h1")
		bad := h.say(op(h.key("a"), "deadlock"))
		for range 2 {
			for _, n := range f.nodes { // whoever hangs passes nothing on
				h.attach(n).record(bad)
			}
			for _, n := range f.nodes {
				select {
				case <-n.stuck:
				case <-time.After(30 * time.Second):
					t.Fatalf("%s does not notice that it hangs", n.id)
				}
			}
			for _, n := range f.nodes { // as the service manager does
				n.stop()
				n.start(t)
			}
			f.meet()
		}
		f.measure()
		h.attach(f.nodes[0]).record(bad, h.say(op(h.key("b"), "good")))
		f.unharmed()
		f.all(2*time.Second, "what came after it is used", func(n *node) bool { return n.shows(h.key("b"), "good") })
		for _, n := range f.nodes {
			if _, ok := n.Get(h.key("a")); ok || len(n.Parked()) != 1 || n.Parked()[0].Record != bad.ID() {
				t.Errorf("%s has parked %+v", n.id, n.Parked())
			}
		}
		h.innocent()
	})
}

// Every node writes all it has anew at once, as after a change of schema (see also
// TestSchemaBackfillStorm). Each paces itself, so that no other has to refuse any of it.
func TestEverybodyWritesAgain(t *testing.T) {
	attackedInVirtualTime(t, 0, func(t *testing.T, f *fleet) {
		f.class = "probation" // 20 records a second, 200 at once
		f.grow(3, nil)
		done := make(chan error, len(f.nodes))
		for _, n := range f.nodes {
			go func() {
				for i := range 260 {
					if _, err := n.Put(n.ctx, op(n.key(fmt.Sprint("row", i%50)), "with the new column")); err != nil {
						done <- fmt.Errorf("%s: row %d: %w", n.id, i, err)
						return
					}
				}
				done <- nil
			}()
		}
		for range f.nodes {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		f.unharmed()
		for _, n := range f.nodes {
			if got := n.counter("bailiwick_gossip_records_total", "over_quota"); got > 0 {
				t.Errorf("%s had to refuse %v records", n.id, got)
			}
		}
	})
}

// All certificates end at once, and everybody tries again and again (fly.io: Consul's
// mTLS certificates, whose retries filled the uplinks).
func TestExpiryRetryStorm(t *testing.T) {
	t.Run("links", func(t *testing.T) {
		attackedInVirtualTime(t, 0, func(t *testing.T, f *fleet) {
			var sent atomic.Int64
			quiet := f.net
			f.net = func(t *testing.T) net.PacketConn { return counted{quiet(t), &sent} }
			f.life = 10 * time.Minute
			f.grow(4, nil)
			time.Sleep(11 * time.Minute)
			for _, n := range f.nodes {
				if peers := n.link.Peers(); len(peers) > 0 {
					t.Errorf("%s is linked after the end: %v", n.id, peers)
				}
			}
			time.Sleep(10 * time.Second) // the last farewells
			sent.Store(0)
			for range 50 { // a fleet in which nobody waits
				for _, n := range f.nodes {
					for _, peer := range f.nodes {
						if n != peer {
							if _, err := n.link.Dial(t.Context(), peer.addr(), peer.id); err == nil {
								t.Errorf("%s links to %s without a certificate", n.id, peer.id)
							}
						}
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
			if got := sent.Load(); got > 0 {
				t.Errorf("%d packets were sent for 600 dials that had to fail", got)
			}
			f.life = time.Hour
			for _, n := range f.nodes {
				n.renew(t)
				n.mu.Lock()
				clear(n.ended)
				n.mu.Unlock()
			}
			f.meet()
			f.unharmed()
		})
	})
	t.Run("renewals", func(t *testing.T) {
		const nodes = 1000
		start := time.Unix(1_800_000_000, 0)
		tries := map[int64]int{} // a second
		for i := range uint64(nodes) {
			r := identity.Renewal{NotBefore: start, NotAfter: start.Add(time.Hour), Seed: i * 0x9e3779b97f4a7c15}
			failures := 0
			for at := r.Due(); at.Before(start.Add(2 * time.Hour)); at = r.Retry(at, failures) { // no issuer answers
				tries[at.Unix()]++
				failures++
			}
		}
		for at, n := range tries {
			if n > nodes/10 {
				t.Errorf("%d of %d nodes ask in one second, %s from the end of their certificates", n, nodes, time.Unix(at, 0).Sub(start.Add(time.Hour)))
			}
		}
	})
}

// counted counts the packets that are sent.
type counted struct {
	net.PacketConn
	sent *atomic.Int64
}

func (c counted) WriteTo(b []byte, to net.Addr) (int, error) {
	c.sent.Add(1)
	return c.PacketConn.WriteTo(b, to)
}

// renewable is a node's own SVID, which is renewed.
type renewable struct{ svid atomic.Pointer[x509svid.SVID] }

func (r *renewable) GetX509SVID() (*x509svid.SVID, error) { return r.svid.Load(), nil }

func (n *node) renew(t *testing.T) { n.svid.svid.Store(n.f.home.svid(t, n.id, n.f.life)) }
