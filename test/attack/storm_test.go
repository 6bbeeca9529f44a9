package attack

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// judged has a node ask the schemas of an engine, as package app does.
func judged(e *policy.Engine) func(*replica.Config) {
	return func(cfg *replica.Config) {
		cfg.Apply = func(rec feed.Record, op feed.Op) error {
			key, err := feed.ParseKey(op.Key)
			if err != nil || op.Action != feed.Put {
				return err
			}
			written := rec.HLC.Time()
			if rec.Kind == feed.Snapshot {
				written = op.Written.HLC.Time()
			}
			return e.Fits(key.Kind, key.Name, written, op.Value).Refused()
		}
	}
}

// ship puts a schema in force that wants orders to be numbers.
func ship(t *testing.T, e *policy.Engine, since string) {
	t.Helper()
	src := fmt.Sprintf(`{"kind": "x-order", "version": 1, %s "schema": {"type": "integer"}}`, since)
	if err := e.Activate(policy.Level{Name: policy.Global, Schemas: map[string]string{"schemas/order.json": src}}); err != nil {
		t.Fatal(err)
	}
}

// A schema is shipped to the whole fleet that everything in store breaks, as a column was
// once added to a table that everybody then wrote again. Nobody refuses or writes again
// what is there, not when its owners restate it either, and nobody is blamed; what is
// new is judged, and the feeds of those who get it wrong go on. That this lasts shows in virtual time.
func TestSchemaBackfillStorm(t *testing.T) {
	const orders, size = 100, 3 << 10 // of each node: a snapshot is due after two rounds
	attacked(t, 0, func(t *testing.T, f *fleet) {
		engine := policy.New(policy.Config{})
		f.grow(3, judged(engine))
		order := func(n *node, i int) string { return feed.KeyOf(n.id, "x-order", fmt.Sprint(i)) }
		for _, n := range f.nodes {
			for i := range orders {
				if _, err := n.Put(n.ctx, op(order(n, i), `"`+strings.Repeat("x", size)+`"`)); err != nil {
					t.Fatal(err)
				}
			}
		}
		f.converge(time.Minute)
		refused := func(n *node) float64 { return n.counter("bailiwick_gossip_denied_ops_total", "") }
		wrote := func(n *node) float64 { return n.counter("bailiwick_gossip_own_records_total", "") }
		whole := func(when string) {
			t.Helper()
			for _, n := range f.nodes {
				for _, owner := range f.nodes {
					for i := range orders {
						e, ok := n.Get(order(owner, i))
						if !ok {
							t.Fatalf("%s: %s does not show order %d of %s", when, n.id, i, owner.id)
						}
						if engine.Revision() != "none" && engine.Fits(e.Kind, e.Name, e.HLC.Time(), e.Value).Err == nil {
							t.Fatalf("%s: order %d of %s is not marked", when, i, owner.id)
						}
					}
				}
			}
		}
		whole("before")

		before := map[*node]float64{}
		for _, n := range f.nodes {
			before[n] = wrote(n)
		}
		ship(t, engine, "")
		for _, n := range f.nodes {
			if err := n.Reconsider(n.ctx); err != nil {
				t.Fatal(err)
			}
		}
		pass(t, 10*time.Minute)
		whole("after a while")
		for _, n := range f.nodes {
			if got := refused(n); got != 0 {
				t.Errorf("%s refused %v values that were there", n.id, got)
			}
			if got := wrote(n) - before[n]; got > 21 { // two renewals of its lease a minute
				t.Errorf("%s wrote %v records by itself", n.id, got)
			}
		}

		// Owners restate what they have: their feeds grow until a snapshot is due.
		snapshots := func(n *node) float64 { return n.counter("bailiwick_gossip_snapshots_total", "") }
		had := snapshots(f.nodes[0])
		for i := 0; snapshots(f.nodes[0]) < had+3; i++ {
			if i > 3*orders {
				t.Fatal("no snapshots come")
			}
			for _, n := range f.nodes {
				n.put(fmt.Sprint("filler", i%3), strings.Repeat("y", size))
			}
		}
		f.converge(time.Minute)
		whole("after snapshots")
		for _, n := range f.nodes {
			if got := refused(n); got != 0 {
				t.Errorf("%s refused %v values that were restated", n.id, got)
			}
		}

		// What is new is judged, by everybody once.
		writer := f.nodes[0]
		for _, value := range []string{`"dear"`, `12`} {
			if _, err := writer.Put(writer.ctx, op(feed.KeyOf(writer.id, "x-order", "new"+fmt.Sprint(len(value))), value)); err != nil {
				t.Fatal(err)
			}
		}
		writer.put("after", "1")
		f.all(2*time.Second, "the feed goes on", func(n *node) bool { return n.shows(writer.key("after"), "1") })
		for _, n := range f.nodes[1:] {
			if _, ok := n.Get(feed.KeyOf(writer.id, "x-order", "new6")); ok || refused(n) != 1 || !n.shows(feed.KeyOf(writer.id, "x-order", "new2"), "12") {
				t.Errorf("%s refused %v", n.id, refused(n))
			}
		}
		f.unharmed()
	})
	// Who joins later keeps what was written before since, like all others; without one it
	// judges what it is handed as new, each value once.
	for since, wanted := range map[string]int{`"since": "2100-01-01T00:00:00Z",`: orders, "": 0} {
		t.Run("late, since "+fmt.Sprint(wanted > 0), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := policy.New(policy.Config{})
				f := newFleetWith(t, simulated(), 2, judged(engine))
				writer := f.nodes[0]
				for i := range orders {
					if _, err := writer.Put(writer.ctx, op(feed.KeyOf(writer.id, "x-order", fmt.Sprint(i)), `"free"`)); err != nil {
						t.Fatal(err)
					}
				}
				ship(t, engine, since)
				late := newNode(t, f, "late", judged(engine))
				f.enrol(late.id, late.self.Cert)
				late.start(t)
				late.meet(t, writer)
				writer.put("after", "1")
				eventually(t, 5*time.Second, "the late node has all records", func() bool { return late.shows(writer.key("after"), "1") })
				shown, _ := late.List(writer.id.Path() + "/x-order/")
				if refused := late.counter("bailiwick_gossip_denied_ops_total", ""); len(shown) != wanted || int(refused) != orders-wanted {
					t.Errorf("%d shown, %v refused", len(shown), refused)
				}
				f.nodes = append(f.nodes, late)
				late.meet(t, f.nodes[1])
				f.measure()
				f.unharmed()
			})
		})
	}
}
