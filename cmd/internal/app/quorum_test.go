package app

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// In a region of seven nodes one shows no evidence of its machine. Its assigned observers say so
// under their own keys, and with the quorum of them every node quarantines it; one fewer does not.
func TestQuorumInARegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 7)
		defer f.close()
		agree(t, f.nodes, 30*time.Second)
		bad, others := f.nodes[6], f.nodes[:6]
		var members []quarantine.Member
		for _, n := range f.nodes {
			members = append(members, quarantine.Member{ID: n.id, Domain: n.id.String()})
		}
		for _, n := range f.nodes {
			n.peering.standing.set.Enrol(members)
		}
		hear := func() { // what followState does with what came
			for _, n := range f.nodes {
				entries, _ := n.replica.List("/")
				for _, e := range entries {
					if e.Kind == feed.KindAccusation {
						if err := n.peering.standing.accusation(e.Owner, e.Value); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		for i, n := range others[:5] { // 67 % of six
			for _, m := range others {
				if st := m.peering.standing.of(bad.id).Standing; st == quarantine.Quarantined {
					t.Fatalf("%s: %s after %d accusations", m.id, st, i)
				}
			}
			c := newAccusing(n.id, n.peering.standing.set)
			c.changed, c.degraded, c.record = func(spiffeid.ID) {}, func() bool { return false }, func(map[string]any) error { return nil }
			c.found(time.Now(), bad.id, ruleMissing, "nothing came", feed.ID{}, time.Time{})
			show, _, err := c.wanted(time.Now(), 3)
			if err != nil || len(show) != 1 {
				t.Fatalf("%s says %d, %v", n.id, len(show), err)
			}
			for name, b := range show {
				n.put(t, feed.KindAccusation, name, b)
			}
			time.Sleep(2 * time.Second)
			hear()
		}
		for _, n := range others {
			st := n.peering.standing.of(bad.id)
			if st.Standing != quarantine.Quarantined || n.peering.standing.admits(bad.id) == nil || n.peering.standing.issues(bad.id) == nil {
				t.Errorf("%s: %+v", n.id, st)
			}
		}
		time.Sleep(quarantine.AccusationTerm)
		for _, n := range others {
			if st := n.peering.standing.of(bad.id).Standing; st == quarantine.Quarantined {
				t.Errorf("%s: %s when nobody keeps it up", n.id, st)
			}
		}
	})
}
