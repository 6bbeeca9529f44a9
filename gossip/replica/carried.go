package replica

import (
	"hash/maphash"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// maxCarried is how many sets of feeds are kept as a tree at once.
const maxCarried = 8

// carried is the heads that travel between this node and those peers for which
// Config.Carry picks the same origins.
type carried struct {
	origins map[spiffeid.ID]bool
	sum     uint64 // of origins
	tree    feed.HeadTree
	copied  feed.Frontier // of the tree; nil when that has changed since
}

var carriedSeed = maphash.MakeSeed()

// frontier returns the heads as a map, which is shared: never changed, only replaced.
func (c *carried) frontier() feed.Frontier {
	if c.copied == nil {
		c.copied = make(feed.Frontier, c.tree.Len(""))
		for f, h := range c.tree.Heads("") {
			c.copied[f] = h
		}
	}
	return c.copied
}

// set takes the heads of an origin's chain over.
func (c *carried) set(chain *feed.Chain) {
	c.copied = nil
	for _, epoch := range chain.Epochs() {
		c.tree.Set(feed.FeedID{Origin: chain.Origin(), Epoch: epoch}, chain.Head(epoch))
	}
}

// carriedWith returns what travels between this node and a peer.
func (r *Replica) carriedWith(p *peer) *carried {
	if p.carried != nil {
		return p.carried
	}
	made := &carried{origins: map[spiffeid.ID]bool{}}
	for origin := range r.chains {
		if r.cfg.Carry(p.id, origin) {
			made.origins[origin] = true
			made.sum ^= maphash.Comparable(carriedSeed, origin)
		}
	}
	if i := slices.IndexFunc(r.carried, func(c *carried) bool { return c.sum == made.sum && len(c.origins) == len(made.origins) }); i >= 0 {
		p.carried = r.carried[i]
		return p.carried
	}
	for origin := range made.origins {
		made.set(r.chains[origin])
	}
	if len(r.carried) == maxCarried {
		r.forgetCarried(r.carried[0])
	}
	r.carried, p.carried = append(r.carried, made), made
	return made
}

// moved follows heads of an origin that have changed.
func (r *Replica) moved(c *feed.Chain) {
	for _, set := range r.carried {
		if set.origins[c.Origin()] {
			set.set(c)
		}
	}
}

// met adds a new origin to the sets of those peers that it travels to. A set whose
// peers differ about it is made anew.
func (r *Replica) met(origin spiffeid.ID) {
	travels := map[*carried]map[bool]bool{}
	for _, p := range r.peers {
		if p.carried != nil {
			if travels[p.carried] == nil {
				travels[p.carried] = map[bool]bool{}
			}
			travels[p.carried][r.cfg.Carry(p.id, origin)] = true
		}
	}
	for _, set := range slices.Clone(r.carried) {
		switch asked := travels[set]; {
		case len(asked) != 1:
			r.forgetCarried(set)
		case asked[true]:
			set.origins[origin] = true
			set.sum ^= maphash.Comparable(carriedSeed, origin)
		}
	}
}

func (r *Replica) forgetCarried(set *carried) {
	r.carried = slices.DeleteFunc(r.carried, func(c *carried) bool { return c == set })
	for _, p := range r.peers {
		if p.carried == set {
			p.carried = nil
		}
	}
}

// recarry has every peer's set looked up again: Config.Carry may have changed its mind.
// Sets that no attached peer has go.
func (r *Replica) recarry() {
	for _, p := range r.peers {
		p.carried = nil
	}
	used := map[*carried]bool{}
	for _, s := range r.attached {
		used[r.carriedWith(s.peer)] = true
	}
	r.carried = slices.DeleteFunc(r.carried, func(c *carried) bool { return !used[c] })
}
