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
// used by nobody. That fifteen seconds are the limit shows in virtual time; on loopback it is less.
func TestContagiousDeadlock(t *testing.T) {
	attacked(t, 0, func(t *testing.T, f *fleet) {
		release := make(chan struct{})
		t.Cleanup(func() { close(release) })
		f.grow(3, func(c *replica.Config) {
			if !virtual(t) {
				c.Patience = 3 * time.Second
			}
			c.Apply = func(_ feed.Record, op feed.Op) error {
				if string(op.Value) == "deadlock" {
					<-release
				}
				return nil
			}
		})
		h := f.turncoat("h1")
		bad := h.say(op(h.key("a"), "deadlock"))
		for range 2 {
			for _, n := range f.nodes { // whoever hangs passes nothing on
				h.attach(n).record(bad)
			}
			for _, n := range f.nodes {
				select {
				case <-n.stuck:
				case <-time.After(bound(t, 30*time.Second)):
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
	attacked(t, 0, func(t *testing.T, f *fleet) {
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
// mTLS certificates, whose retries filled the uplinks). Links that end with their certificates show
// in virtual time; on loopback the fleet begins again with some that end soon. When renewals are tried
// is computed, and asks no network.
func TestExpiryRetryStorm(t *testing.T) {
	t.Run("links", func(t *testing.T) {
		attacked(t, 0, func(t *testing.T, f *fleet) {
			var sent atomic.Int64
			quiet := f.net
			f.net = func(t *testing.T) net.PacketConn { return counted{quiet(t), &sent} }
			if virtual(t) {
				f.life = 10 * time.Minute
				f.grow(4, nil)
				time.Sleep(11 * time.Minute)
			} else { // a fleet whose certificates end as soon as they are shown
				f.grow(4, nil)
				f.life = 2 * time.Second
				for _, n := range f.nodes {
					n.stop()
					n.start(t)
				}
				f.dialAll(t, func(*node, *node, error) {})
			}
			f.all(time.Millisecond, "no link is left after the end", func(n *node) bool {
				return time.Until(n.svid.ends()) < 0 && len(n.link.Peers()) == 0
			})
			pass(t, 10*time.Second) // the last farewells
			dials := int64(0)
			sent.Store(0)
			for range rounds(t, 50, 10) { // a fleet in which nobody waits
				f.dialAll(t, func(n, peer *node, err error) {
					if dials++; err == nil {
						t.Errorf("%s links to %s without a certificate", n.id, peer.id)
					}
				})
				pass(t, 100*time.Millisecond)
			}
			if got := sent.Load(); virtual(t) && got > 0 || got >= dials { // on a busy machine a farewell may come late
				t.Errorf("%d packets were sent for %d dials that had to fail", got, dials)
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

// dialAll has every node dial every other, and tells what came of it.
func (f *fleet) dialAll(t *testing.T, came func(n, peer *node, err error)) {
	for _, n := range f.nodes {
		for _, peer := range f.nodes {
			if n != peer {
				_, err := n.link.Dial(t.Context(), peer.addr(), peer.id)
				came(n, peer, err)
			}
		}
	}
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

// ends is when it ends.
func (r *renewable) ends() time.Time { return r.svid.Load().Certificates[0].NotAfter }

func (n *node) renew(t *testing.T) { n.svid.svid.Store(n.f.home.svid(t, n.id, n.f.life)) }
