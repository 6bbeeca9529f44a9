package replica

import (
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Named returns what the owners of the node's own trust domain have under one kind and
// name, by owner: the parts of a shared value (package value).
func (r *Replica) Named(kind, name string) []Entry {
	v := r.view
	v.mu.RLock()
	defer v.mu.RUnlock()
	now := v.now()
	var out []Entry
	for owner, h := range v.owners {
		if !owner.MemberOf(v.td) {
			continue
		}
		if it, ok := h.items[feed.KeyOf(owner, kind, name)]; ok && !it.deleted {
			out = append(out, h.show(it, now))
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return out
}
