package app

import (
	"cmp"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// Which links a node has in its region.
//
// With up to fullMesh others, it keeps one to each. With more it keeps:
//
//   - its mesh, the nodes that the replica draws from the signed roster to push to: six,
//     and as many that drew this one and keep the link from their side. In the place
//     of those that do not answer others are drawn; the former are still tried;
//   - farLinks others, by chance, one of which changes every farTerm. They are those
//     outside of the mesh to which heads are told lazily: what the mesh does not reach,
//     or what an adversary in it holds back, comes over them, and nobody can choose
//     whose they are;
//   - for a while, whatever was dialled because somebody needed it: SWIM's probes,
//     which go to all nodes in turn, and questions to the authority.
//
// A gossip session is what says that a link is kept: the side that wants it opens one,
// and closes it when it wants it no more. A link without one is idle; it is closed after
// idleAfter without use, and sooner, the longest unused first, where there are more
// than maxIdle.
const (
	fullMesh  = 16
	farLinks  = 4
	farTerm   = 30 * time.Second
	idleAfter = 10 * time.Second
	maxIdle   = 16
)

// overlay remembers what was chosen by chance. The rest is worked out anew.
type overlay struct {
	self spiffeid.ID
	far  []spiffeid.ID // the oldest first
	term time.Time     // when the oldest goes
}

// keep returns the nodes that this one keeps links to now. members are the others of
// the region's roster; away says who did not answer when last dialled. chance draws a
// number below n.
func (o *overlay) keep(members []replica.Member, away func(spiffeid.ID) bool, now time.Time, chance func(n int) int) map[spiffeid.ID]bool {
	kept := map[spiffeid.ID]bool{}
	if len(members) <= fullMesh {
		o.far = nil
		for _, m := range members {
			kept[m.ID] = true
		}
		return kept
	}
	present := map[spiffeid.ID]bool{}
	var there []replica.Member
	for _, m := range members {
		if !away(m.ID) {
			present[m.ID] = true
			there = append(there, m)
		}
	}
	for _, id := range slices.Concat(replica.Draw(o.self, members, now), replica.Draw(o.self, there, now)) {
		kept[id] = true
	}
	if len(o.far) > 0 && !now.Before(o.term) {
		o.far, o.term = o.far[1:], now.Add(farTerm)
	}
	o.far = slices.DeleteFunc(o.far, func(id spiffeid.ID) bool { return !present[id] })
	for range 4 * farLinks { // by chance: some are in the mesh, or are drawn twice
		if len(o.far) == farLinks || len(there) == 0 {
			break
		}
		if id := there[chance(len(there))].ID; id != o.self && !kept[id] && !slices.Contains(o.far, id) {
			if o.far = append(o.far, id); len(o.far) == 1 {
				o.term = now.Add(farTerm)
			}
		}
	}
	for _, id := range o.far {
		kept[id] = true
	}
	return kept
}

// unused is a link that nobody keeps.
type unused struct {
	id   spiffeid.ID
	idle time.Duration
}

// surplus returns the links to close.
func surplus(links []unused) (out []spiffeid.ID) {
	slices.SortFunc(links, func(a, b unused) int { return cmp.Compare(a.idle, b.idle) })
	for i, l := range links {
		if l.idle >= idleAfter || i >= maxIdle && l.idle > 0 {
			out = append(out, l.id)
		}
	}
	return out
}
