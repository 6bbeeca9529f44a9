// Package route chooses which owner of a service a connection goes to. It is
// pure: no clock, no socket, no memory of earlier choices.
//
// [Choose] turns the known owners into the order in which to try them:
//
//  1. An owner whose standing is contained (held, quarantined, revoked or
//     unknown) is not an owner. Nothing brings it back.
//  2. Of the rest, unhealthy ones are ejected, worst first, but never more than
//     half: health is a hint, and a wrong hint must not leave a service without
//     owners. The unhealthy ones that stay come last.
//  3. Nearest first: the same node, the same zone, the same region, elsewhere. Two
//     nodes without a zone are not in the same one.
//  4. At one distance: healthy before unknown, then by round-trip time in powers of
//     two milliseconds, then by a hash of the two nodes, so that the nodes of a
//     fleet spread over equal owners and one node keeps to its own.
//
// Equal inputs give equal orders, whatever order the owners came in, and a
// round-trip time that wavers by a little changes nothing.
package route

import (
	"cmp"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Health is what failure detection makes of an owner. The zero value says
// nothing.
type Health int

const (
	Unknown Health = iota
	Healthy
	Unhealthy
)

// Place is where a node is. Zone and Region are those of its enrolment; an empty
// Zone is no zone.
type Place struct {
	Node         spiffeid.ID
	Zone, Region string
}

// Owner is one workload on one node that serves the service.
type Owner struct {
	Place
	Workload spiffeid.ID
	Addr     netip.AddrPort // of the node's link
	Health   Health
	Standing quarantine.Standing // the worse of the node's and the workload's
	RTT      time.Duration       // to the node; zero is unknown, and sorts last
}

// Choose returns the owners worth trying from here, best first. It is empty only
// if every owner is contained. The argument is not changed.
func Choose(here Place, owners []Owner) []Owner {
	out := make([]Owner, 0, len(owners))
	for _, o := range owners {
		if !o.Standing.Contained() {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Owner) int { return rank(here, a).compare(rank(here, b)) })
	ejected := 0
	for ejected < len(out)/2 && out[len(out)-1-ejected].Health == Unhealthy {
		ejected++
	}
	return out[:len(out)-ejected]
}

// key is what owners are ordered by, first field first.
type key struct {
	unhealthy, distance, unsure, rtt int
	hash                             uint64
	node, workload, addr             string
}

func (a key) compare(b key) int {
	return cmp.Or(
		cmp.Compare(a.unhealthy, b.unhealthy),
		cmp.Compare(a.distance, b.distance),
		cmp.Compare(a.unsure, b.unsure),
		cmp.Compare(a.rtt, b.rtt),
		cmp.Compare(a.hash, b.hash),
		cmp.Compare(a.node, b.node),
		cmp.Compare(a.workload, b.workload),
		cmp.Compare(a.addr, b.addr),
	)
}

func rank(here Place, o Owner) key {
	k := key{distance: distance(here, o.Place), rtt: 64, node: o.Node.String(), workload: o.Workload.String(), addr: o.Addr.String()}
	if o.Health == Unhealthy {
		k.unhealthy = 1
	}
	if o.Health != Healthy {
		k.unsure = 1
	}
	if o.RTT > 0 {
		k.rtt = bits.Len64(uint64(o.RTT / time.Millisecond))
	}
	h := fnv.New64a()
	h.Write([]byte(here.Node.String()))
	h.Write([]byte{0})
	h.Write([]byte(k.node))
	k.hash = h.Sum64()
	return k
}

func distance(a, b Place) int {
	switch {
	case a.Node == b.Node:
		return 0
	case a.Region != b.Region:
		return 3
	case a.Zone != "" && a.Zone == b.Zone:
		return 1
	default:
		return 2
	}
}
