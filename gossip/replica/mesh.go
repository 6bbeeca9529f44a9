package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	rings  = 3         // a node pushes to its neighbours on both sides of each
	degree = 2 * rings // so many peers

	lazyEvery   = 200 * time.Millisecond
	lazyPeers   = 3 // of the others hear of changed heads so often
	rootPeers   = 3 // of the mesh hear the root every second, and one of the others
	redrawEvery = 10 * time.Second
)

// Member is a node of the region's signed roster.
type Member struct {
	ID     spiffeid.ID
	Domain string // its failure domain; empty: it is its own
}

func (m Member) domain() string {
	if m.Domain == "" {
		return m.ID.String()
	}
	return m.Domain
}

// Draw returns the members that self pushes to: its nearest on both sides of each
// ring, on which all members lie in an order of their own that nobody can choose.
// At most half are of one failure domain, unless there are no others. Every minute
// another ring is ordered anew.
func Draw(self spiffeid.ID, members []Member, now time.Time) (out []spiffeid.ID) {
	names := make([]uint64, len(members))
	for i, m := range members {
		names[i] = name(m.ID)
	}
	domains := map[string]int{}
	// take adds the member least far from self of those it may.
	take := func(far func(i int) uint64, most int) bool {
		best, least := -1, uint64(0)
		for i, m := range members {
			if f := far(i); (best < 0 || f < least) && m.ID != self && domains[m.domain()] < most && !slices.Contains(out, m.ID) {
				best, least = i, f
			}
		}
		if best >= 0 {
			out = append(out, members[best].ID)
			domains[members[best].domain()]++
		}
		return best >= 0
	}
	for ring := range uint64(rings) {
		term := (uint64(now.Unix()/60) + ring) / rings
		at := place(ring, term, name(self))
		after := func(i int) uint64 { return place(ring, term, names[i]) - at }
		before := func(i int) uint64 { return at - place(ring, term, names[i]) }
		for _, side := range []func(int) uint64{after, before} {
			if !take(side, degree/2) {
				take(side, degree)
			}
		}
	}
	return out
}

func name(id spiffeid.ID) uint64 {
	digest := sha256.Sum256([]byte("bailiwick mesh 1\x00" + id.String()))
	return binary.BigEndian.Uint64(digest[:])
}

// place is where a member lies on a ring: its name, mixed with ring and term
// (the finalizer of MurmurHash3).
func place(ring, term, name uint64) uint64 {
	for _, k := range []uint64{ring + 1, term} {
		name ^= k * 0x9e3779b97f4a7c15
		name = (name ^ name>>33) * 0xff51afd7ed558ccd
		name = (name ^ name>>33) * 0xc4ceb9fe1a85ec53
		name ^= name >> 33
	}
	return name
}

// redraw chooses the mesh among the attached peers. Those that the roster does not
// name fill it up while few are attached that it does.
func (r *Replica) redraw(now time.Time) {
	r.drawn = now
	unnamed := map[spiffeid.ID]bool{}
	for _, s := range r.attached {
		if !r.holds[s.peer.id].Held {
			unnamed[s.peer.id] = true
		}
	}
	var named, others []Member
	for _, m := range r.cfg.Roster() {
		if unnamed[m.ID] {
			named = append(named, m)
			delete(unnamed, m.ID)
		}
	}
	for id := range unnamed {
		others = append(others, Member{ID: id})
	}
	chosen := append(Draw(r.cfg.Self, named, now), Draw(r.cfg.Self, others, now)...)
	mesh := map[spiffeid.ID]bool{}
	for _, id := range chosen[:min(degree, len(chosen))] {
		mesh[id] = true
	}
	for _, s := range r.attached {
		p, was := s.peer, s.peer.eager
		if p.eager = mesh[p.id]; !p.eager {
			p.front = nil // it would not stay true of one that is pushed nothing
			clear(p.ahead)
		} else if p.front == nil && s.greeted {
			if !was && p.agreed {
				p.front = r.carriedWith(p).frontier() // others pushed to it until now
			}
			r.sendRoot(s)
		}
	}
	r.metrics.mesh.Set(float64(len(mesh)))
}

// some returns up to n sessions, by chance, one a peer, in the mesh or outside of it.
func (r *Replica) some(n int, eager bool) []*session {
	var out []*session
	seen := map[*peer]bool{}
	for _, s := range r.attached {
		if s.peer.eager == eager && !seen[s.peer] {
			seen[s.peer] = true
			out = append(out, s)
		}
	}
	r.cfg.Rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(n, len(out))]
}

// tellLazily tells some outside of the mesh which heads have changed: they may be
// where the mesh does not reach.
func (r *Replica) tellLazily() {
	r.graft(r.cfg.Now())
	if len(r.changed) == 0 {
		return
	}
	//bailiwick:check TestSilentDroppers
	for _, s := range r.some(lazyPeers, false) {
		heads := feed.Frontier{}
		for f := range r.changed {
			if h := r.chains[f.Origin].Head(f.Epoch); h.Seq > 0 && r.cfg.Carry(s.peer.id, f.Origin) && !r.hasFrom(s.peer, f, h.Seq) {
				heads[f] = h
			}
		}
		if len(heads) == 0 {
			continue
		}
		r.tellHeads(s, classState, heads)
	}
	clear(r.changed)
}

// tellRoots shows the frontier's root to some peers: who holds another answers.
func (r *Replica) tellRoots(now time.Time) {
	for _, s := range slices.Concat(r.some(rootPeers, true), r.some(1, false)) {
		if s.terms.Mode == Headers && now.Sub(s.rooted) < thinRoots {
			continue
		}
		s.rooted = now
		r.sendRoot(s)
	}
}
