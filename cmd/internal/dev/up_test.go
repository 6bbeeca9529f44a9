package dev

import (
	"os"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// up is the status of a node that lacks nothing.
func up(f *Fleet, n Node) *controlv1.StatusResponse {
	s := &controlv1.StatusResponse{Self: &controlv1.NodeStatus{
		Identity: &controlv1.Identity{SvidRemainingSeconds: 3600}, Feed: &controlv1.Feed{Epoch: 1},
	}}
	for _, other := range f.Nodes {
		if f.linked(n, other) {
			s.Peers = append(s.Peers, &controlv1.PeerStatus{SpiffeId: other.ID.String(), Standing: "ok", Connected: true})
		}
	}
	for _, r := range f.Regions {
		s.Regions = append(s.Regions, &controlv1.RegionSummary{Region: r.Label})
	}
	s.Services = []*controlv1.Service{{Name: "web", Region: "east", Owners: []string{f.first("east").ID.String()}}}
	return s
}

func TestMissing(t *testing.T) {
	f := newFleet(t)
	peerOf := func(name string) func(*controlv1.StatusResponse) *controlv1.PeerStatus {
		n, err := f.Node(name)
		if err != nil {
			t.Fatal(err)
		}
		return func(s *controlv1.StatusResponse) *controlv1.PeerStatus { return peer(s, n) }
	}
	tests := []struct {
		name, node, want string
		edit             func(*controlv1.StatusResponse)
	}{
		{"up", "east-n2", "", func(*controlv1.StatusResponse) {}},
		{"no identity", "east-n1", "no identity yet", func(s *controlv1.StatusResponse) { s.Self.Identity = nil }},
		{"expired", "east-n1", "no identity yet", func(s *controlv1.StatusResponse) { s.Self.Identity.SvidRemainingSeconds = -1 }},
		{"no epoch", "west-n2", "no epoch yet", func(s *controlv1.StatusResponse) { s.Self.Feed = nil }},
		{"alone", "west-n2", "no link with west-n1", func(s *controlv1.StatusResponse) { s.Peers = nil }},
		{"peer down", "east-n2", "no link with east-n3", func(s *controlv1.StatusResponse) { peerOf("east-n3")(s).Connected = false }},
		{"peer shut out", "east-n2", "", func(s *controlv1.StatusResponse) {
			p := peerOf("east-n3")(s)
			p.Connected, p.Standing = false, "quarantined"
		}},
		{"gateways apart", "east-n1", "no link with west-n1", func(s *controlv1.StatusResponse) { peerOf("west-n1")(s).Connected = false }},
		{"no gateway", "east-n2", "", func(s *controlv1.StatusResponse) {}},
		{"no summary", "east-n2", "no summary of west", func(s *controlv1.StatusResponse) { s.Regions = s.Regions[:1] }},
		{"no service", "east-n2", "web.east.mesh is not known yet", func(s *controlv1.StatusResponse) { s.Services = nil }},
		{"nobody serves", "west-n2", "web.east.mesh is not known yet", func(s *controlv1.StatusResponse) { s.Services[0].Owners = nil }},
	}
	for _, tt := range tests {
		n, err := f.Node(tt.node)
		if err != nil {
			t.Fatal(err)
		}
		s := up(f, n)
		tt.edit(s)
		if got := Missing(f, n, s); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	n, _ := f.Node("east-n2")
	if got := Missing(f, n, nil); got == "" {
		t.Error("a node that does not answer is up")
	}
	if err := os.WriteFile(f.marker("east-n2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Missing(f, n, &controlv1.StatusResponse{}); got != "" {
		t.Errorf("a poisoned node that answers: %q", got)
	}
	other, _ := f.Node("east-n3")
	s := up(f, other)
	peer(s, n).Connected = false
	if got := Missing(f, other, s); got != "" {
		t.Errorf("without the poisoned node: %q", got)
	}
}
