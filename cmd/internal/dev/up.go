package dev

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// ErrNotUp means the fleet did not come up in time. The message says what is
// missing where; the node's log says why.
var ErrNotUp = errors.New("the dev fleet did not come up")

// Missing says what a node with this status still lacks to be up, in a few words,
// or "" when it lacks nothing. A nil status is that of a node that does not
// answer. A node that was poisoned is up when it answers: the others may keep it out.
func Missing(f *Fleet, n Node, s *controlv1.StatusResponse) string {
	switch {
	case s == nil:
		return "not answering"
	case f.poisoned(n.Name):
		return ""
	case s.GetSelf().GetIdentity().GetSvidRemainingSeconds() <= 0:
		return "no identity yet"
	case s.Self.GetFeed().GetEpoch() == 0:
		return "no epoch yet"
	}
	for _, other := range f.Nodes {
		if !f.linked(n, other) || f.poisoned(other.Name) {
			continue
		}
		if p := peer(s, other); !p.GetConnected() && !shutOut(p) {
			return "no link with " + other.Name
		}
	}
	for _, r := range f.Regions {
		if r.Label != n.Region && !slices.ContainsFunc(s.Regions, func(m *controlv1.RegionSummary) bool { return m.Region == r.Label }) {
			return "no summary of " + r.Label
		}
	}
	for _, w := range f.Workloads {
		if w.Node == n.Name && w.Calls != "" && !reachable(s, w.Calls) {
			return w.Calls + " is not known yet"
		}
	}
	return ""
}

// linked reports whether two nodes should have a link: all of one region, and the
// gateways.
func (f *Fleet) linked(a, b Node) bool {
	if a.Name == b.Name {
		return false
	}
	return a.Region == b.Region || a.First && b.First
}

func peer(s *controlv1.StatusResponse, n Node) *controlv1.PeerStatus {
	for _, p := range s.Peers {
		if p.SpiffeId == n.ID.String() {
			return p
		}
	}
	return nil
}

// shutOut reports whether the node that answered keeps a peer out itself.
func shutOut(p *controlv1.PeerStatus) bool {
	return slices.Contains([]string{"held", "quarantined", "revoked"}, p.GetStanding())
}

// reachable reports whether a service has somebody who offers it.
func reachable(s *controlv1.StatusResponse, service string) bool {
	for _, m := range s.Services {
		if fmt.Sprintf("%s.%s.mesh", m.Name, m.Region) == service {
			return len(m.Owners) > 0
		}
	}
	return false
}
