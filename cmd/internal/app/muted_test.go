package app

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// With the cap reached, the link to a convicted node stays, and nothing that it relays is taken: not
// in a session that runs, nor in one that it opens. What others relay comes all the same.
func TestConvictedRelayBeyondTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		defer f.close()
		agree(t, f.nodes, 30*time.Second)
		n, bad, writer := f.nodes[0], f.nodes[1], f.nodes[2]
		write := func(name string) (key string) {
			value, err := statement.Marshal(serviceRecord{Workload: "spiffe://east.dev.example/workload/w"})
			if err != nil {
				t.Fatal(err)
			}
			writer.put(t, feed.KindService, name, value)
			return feed.KeyOf(writer.id, feed.KindService, name)
		}
		f.divide(func(a, b netip.AddrPort) bool { // what n hears of the writer it hears by the bad one
			return a == n.addr && b == writer.addr || a == writer.addr && b == n.addr
		})
		time.Sleep(20 * time.Second)
		before := write("before")
		time.Sleep(5 * time.Second)
		if !n.shows(before) {
			t.Fatal("the bad one relays nothing as it is")
		}

		s := n.peering.standing
		a := &App{cfg: config.Config{Node: n.id}, link: n.link, replica: n.replica, peering: n.peering, standing: s, log: slog.New(slog.DiscardHandler)}
		s.enforce = func(id spiffeid.ID, e quarantine.Effects) (was severed) {
			if id == bad.id {
				was = a.enforce(id, e)
			}
			return was
		}
		for _, id := range []spiffeid.ID{spiffeid.RequireFromString("spiffe://east.dev.example/node/a-sacrifice"), bad.id} {
			if _, _, err := s.evidence([]byte("proof of "+id.String()), writer.id); err != nil {
				t.Fatal(err)
			}
		}
		if e := s.set.Effects(bad.id, time.Now(), s.roster()); !e.Capped || !e.RefuseRelay {
			t.Fatalf("the case is another: %s", e)
		}
		after := write("after")
		time.Sleep(20 * time.Second)
		if _, live := n.link.Conn(bad.id); !live {
			t.Error("the link is gone, although the cap is reached")
		}
		if n.shows(after) {
			t.Error("what the convicted node relays is taken")
		}
		f.divide(nil)
		time.Sleep(20 * time.Second)
		if !n.shows(after) {
			t.Error("what others relay is not taken")
		}
	})
}
