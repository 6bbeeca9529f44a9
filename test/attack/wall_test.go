package attack

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// A member relays a certificate of another region, and what it signed.
func TestOtherRegion(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h, foreigner := f.turncoat("h1"), f.client(f.abroad, "w1")
		s := h.attach(f.nodes[0])
		s.send(frameCert, foreigner.self.Cert)
		s.record(foreigner.say(op(foreigner.key("a"), "1")))
		f.unharmed()
		for _, n := range f.nodes {
			if entries, _ := n.List("spiffe://" + f.abroad.td.Name()); len(entries) > 0 {
				t.Errorf("%s shows %v", n.id, entries)
			}
			if got := n.stored(t, "feed/certs"); got > len(f.nodes)+1 {
				t.Errorf("%s keeps %d certificates", n.id, got)
			}
		}
		h.innocent()
	})
}

// Another region's node, and somebody whom no region certified, want a link.
func TestStranger(t *testing.T) {
	refused := func(h *hostile, n *node, alter func(*tls.Config, *quic.Config)) {
		h.t.Helper()
		if _, err := h.try(n, alter); err == nil {
			h.t.Errorf("%s takes a link of %s", n.id, h.id)
		}
	}
	t.Run("of another region", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			refused(f.client(f.abroad, "w1"), f.nodes[0], nil)
			f.unharmed()
		})
	})
	t.Run("of no region", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			nobody := newRegion(t, f.home.td.Name()) // by name, not by key
			refused(f.client(nobody, "n2"), f.nodes[0], nil)
			f.unharmed()
		})
	})
	t.Run("a workload", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			h.svid = f.home.svid(t, spiffeid.RequireFromPath(f.home.td, "/workload/shop"), time.Hour)
			refused(h, f.nodes[0], nil)
			f.unharmed()
		})
	})
	t.Run("the node itself", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			h.svid = f.home.svid(t, f.nodes[0].id, time.Hour)
			refused(h, f.nodes[0], nil)
			f.unharmed()
		})
	})
}

// Somebody certifies an epoch of another node with a root of its own making, and
// replaces that node's state in it.
func TestForgedEpoch(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h, victim := f.turncoat("h1"), f.nodes[1]
		root, err := epoch.NewRoot(f.home.td, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		evil := *f.home
		evil.root = root
		forged := evil.identity(t, victim.id, newKey(t), 2, time.Hour)
		heads, _ := victim.frontier()
		head := heads[feed.FeedID{Origin: victim.id, Epoch: 1}]
		s := h.attach(f.nodes[0])
		s.send(frameCert, forged.Cert)
		s.record(signAs(t, forged, victim.id, 2, feed.Header{
			Kind: feed.Snapshot, Seq: 1, Prev: head.ID, HLC: now(), Base: 1, Parts: 1, Since: []feed.Place{{Epoch: 1, Seq: head.Seq}},
		}))
		f.unharmed()
		for _, n := range f.nodes {
			if heads, _ := n.frontier(); heads[feed.FeedID{Origin: victim.id, Epoch: 2}].Seq != 0 {
				t.Errorf("%s takes it", n.id)
			}
		}
	})
}

// Links that begin and do not go on.
func TestHalfOpenLinks(t *testing.T) {
	attacked(t, 2, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		var open []*quic.Conn
		for range 100 {
			if conn, err := h.call(f.nodes[0].addr(), nil); err == nil {
				open = append(open, conn)
			}
		}
		pass(t, time.Second)
		living := func() (n int) {
			for _, c := range open {
				if c.Context().Err() == nil {
					n++
				}
			}
			return n
		}
		eventually(t, time.Millisecond, "no more than 64 are of one address", func() bool { return living() <= 64 })
		pass(t, 10*time.Second)
		eventually(t, time.Millisecond, "none is waited for for ever", func() bool { return living() == 0 })
		f.unharmed()
	})
}
