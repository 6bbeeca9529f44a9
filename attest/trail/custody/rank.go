package custody

import (
	"bytes"
	"crypto/sha256"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Rank orders the members other than the owner by how soon they are its custodians. Of each failure
// domain the best by rendezvous hash come first, then the second best, and so on; those of the
// owner's own domain count as one later. The score of a member is
//
//	SHA-256("bailiwick custody/1" 0x00 owner's SPIFFE ID 0x00 member's SPIFFE ID)
//
// and the smallest is best. One member more or less moves no two others past each other, but for
// those of its own domain. Members of other trust domains are left out.
func Rank(owner spiffeid.ID, members []spiffeid.ID) []spiffeid.ID {
	type scored struct {
		id    spiffeid.ID
		score [32]byte
		nth   int // of its domain
	}
	var all []scored
	for _, m := range members {
		if m != owner && m.TrustDomain() == owner.TrustDomain() {
			all = append(all, scored{id: m, score: sha256.Sum256([]byte("bailiwick custody/1\x00" + owner.String() + "\x00" + m.String()))})
		}
	}
	slices.SortFunc(all, func(a, b scored) int { return bytes.Compare(a.score[:], b.score[:]) })
	all = slices.CompactFunc(all, func(a, b scored) bool { return a.id == b.id })
	seen := map[string]int{domain(owner): 1}
	for i := range all {
		d := domain(all[i].id)
		all[i].nth = seen[d]
		seen[d]++
	}
	slices.SortStableFunc(all, func(a, b scored) int { return a.nth - b.nth })
	out := make([]spiffeid.ID, len(all))
	for i, s := range all {
		out[i] = s.id
	}
	return out
}

// domain is the failure domain of a node: its zone or, without one, itself.
func domain(id spiffeid.ID) string {
	seg := segments(id)
	if len(seg) == 4 && seg[0] == "zone" {
		return "zone/" + seg[1]
	}
	return id.String()
}

// folder is the name of an owner's folder: no name of a node or zone has a plus.
func folder(id spiffeid.ID) string {
	seg := segments(id)
	switch {
	case len(seg) == 4 && seg[0] == "zone" && seg[2] == "node":
		return seg[1] + "+" + seg[3]
	case len(seg) == 2 && seg[0] == "node":
		return seg[1]
	}
	return ""
}

// TrailOf is where the copy of an owner's trail is in a folder of copies, <state>/custody.
func TrailOf(dir string, owner spiffeid.ID) string { return filepath.Join(dir, folder(owner), "trail") }

// owner is whose folder it is, in a trust domain.
func owner(td spiffeid.TrustDomain, name string) (spiffeid.ID, bool) {
	seg := []string{"node", name}
	if zone, node, ok := strings.Cut(name, "+"); ok {
		seg = []string{"zone", zone, "node", node}
	}
	id, err := spiffeid.FromSegments(td, seg...)
	return id, err == nil
}

func segments(id spiffeid.ID) []string { return strings.Split(strings.TrimPrefix(id.Path(), "/"), "/") }
