package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

var at = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// well is the status of a node that is.
func well(name string) *controlv1.StatusResponse {
	id := "spiffe://east.dev.example/node/" + name
	return &controlv1.StatusResponse{
		View: &controlv1.View{AsOf: timestamppb.New(at), ViewOf: id, Debt: &controlv1.Debt{}, Lease: &controlv1.Lease{Mode: "connected", RemainingSeconds: 86399}},
		Self: &controlv1.NodeStatus{
			SpiffeId: id, Standing: "ok", PeersUp: 1, PeersKnown: 2,
			Identity: &controlv1.Identity{AttestedBy: "tpm", SvidRemainingSeconds: 3599},
			Feed:     &controlv1.Feed{Epoch: 2, Seq: 17},
			Policy:   &controlv1.Policy{Revision: "global@1+regional@1#c71a3c8f"},
			Trail:    &controlv1.Trail{Size: 44, Root: "b90570b7aaaa"},
		},
		Peers: []*controlv1.PeerStatus{
			{SpiffeId: "spiffe://east.dev.example/node/n2", Standing: "ok", Connected: true, RttMs: 0.52, StateAgeSeconds: 3, Hint: "alive"},
			{SpiffeId: "spiffe://west.dev.example/node/n9", Standing: "quarantined", StateAgeSeconds: -1, Reason: "equivocation"},
		},
	}
}

func TestThinText(t *testing.T) {
	for want, p := range map[string]*controlv1.PeerStatus{
		"":                         {},
		" headers":                 {Mode: "headers"},
		" 2048B/s":                 {Mode: "full", Budget: 2048, SentBytes: 99},
		" tree 512B/s 70000B wait": {Mode: "tree", Budget: 512, WaitingBytes: 70000},
	} {
		if got := thinText(p); got != want {
			t.Errorf("%v: %q, want %q", p, got, want)
		}
	}
	if got := thinText(&controlv1.PeerStatus{Mode: "full", WaitingBytes: 3}); got != "" {
		t.Errorf("a full link: %q", got)
	}
}

func TestDebtText(t *testing.T) {
	tests := []struct {
		name string
		debt *controlv1.Debt
		want string
	}{
		{"none", &controlv1.Debt{}, "0"},
		{"nothing said", nil, "0"},
		{"records", &controlv1.Debt{Records: 7, OldestSeconds: 90}, "7 records 1m30s old"},
		{"heard lately", &controlv1.Debt{Regions: map[string]*controlv1.RegionDebt{"west": {HeardSeconds: quietSeconds}}}, "0"},
		{"quiet", &controlv1.Debt{Regions: map[string]*controlv1.RegionDebt{"west": {HeardSeconds: quietSeconds + 1}}}, "west heard 31s ago"},
		{"never", &controlv1.Debt{Regions: map[string]*controlv1.RegionDebt{"west": {HeardSeconds: -1, Summaries: 4}}}, "west never heard"},
		{"all, in order", &controlv1.Debt{Records: 1, OldestSeconds: 1, Regions: map[string]*controlv1.RegionDebt{
			"west": {Summaries: 2, HeardSeconds: 3}, "north": {HeardSeconds: -1}}}, "1 record 1s old, north never heard, west 2 behind, heard 3s ago"},
	}
	for _, tt := range tests {
		if got := debtText(tt.debt); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestHeadline(t *testing.T) {
	want := "view of spiffe://east.dev.example/node/n1 as of 2026-11-21T10:00:00Z; debt 0; lease connected 23h59m"
	if got := headline(well("n1").View); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestStatusTable(t *testing.T) {
	behind := well("n3")
	behind.View.Debt.Records, behind.View.Debt.OldestSeconds = 3, 4
	behind.Peers[0].MissingRecords, behind.Peers[0].MissingBytes, behind.Peers[0].MissingSeconds = 3, 900, 12
	behind.Self.Identity.Stale, behind.Self.Trail.Size = true, 0
	behind.Self.Warnings = []string{"renewal fails: no issuer\nissuer 2: refused"}
	behind.Peers[0].OwedRecords, behind.Peers[0].OwedSeconds = 2, 1
	behind.Self.Policy.Drift = &controlv1.PolicyDrift{Nodes: 3}
	behind.Peers[0].Policy = &controlv1.NodePolicy{Revision: "r"}
	first := well("n1")
	first.Self.Policy.Drift = &controlv1.PolicyDrift{Nodes: 3, Behind: 1}
	first.Regions = []*controlv1.RegionSummary{{Region: "north", Drift: &controlv1.PolicyDrift{Nodes: 4}}, {Region: "west", Drift: &controlv1.PolicyDrift{Nodes: 2, Behind: 1}}, {Region: "silent"}}
	first.Peers[0].Policy = &controlv1.NodePolicy{Revision: "r", Gaps: []string{"regional: has 1, want 2"}}
	targets := []target{{name: "n0"}, {name: "n1"}, {name: "n3"}}
	var out bytes.Buffer
	statusTable(&out, targets, []*controlv1.StatusResponse{nil, first, behind}, []error{errors.New("n0: does not answer"), nil, nil}, true)
	want := `view of spiffe://east.dev.example/node/n1 as of 2026-11-21T10:00:00Z; debt 0; lease connected 23h59m
policy global@1+regional@1#c71a3c8f; drift 1 of 3 nodes, north 0 of 4, west 1 of 2
NODE  STANDING     IDENTITY            EPOCH  PEERS  DEBT              LEASE             POLICY            TRAIL
n0    unreachable
n1    ok           tpm 59m59s          2/17   1/2    0                 connected 23h59m  c71a3c8f drift 1  44 b90570b7
n3    ok           tpm 59m59s (stale)  2/17   1/2    3 records 4s old  connected 23h59m  c71a3c8f          -
n0: does not answer
n3: renewal fails: no issuer
  issuer 2: refused

SEEN_BY  PEER  STANDING     LINK      STATE_AGE  MISSING     OWED    ATTESTED  POLICY                   HINT   REASON
n1       n2    ok           up 0.5ms  3s         0           0       -         regional: has 1, want 2  alive
n1       n9    quarantined  down      -          0           0       -         -                               equivocation
n3       n2    ok           up 0.5ms  3s         3/900B/12s  2/?/1s  -         ok                       alive
n3       n9    quarantined  down      -          0           0       -         -                               equivocation
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestUnwell(t *testing.T) {
	tests := []struct {
		name string
		edit func(*controlv1.StatusResponse)
		want bool
	}{
		{"well", func(*controlv1.StatusResponse) {}, false},
		{"isolated", func(s *controlv1.StatusResponse) { s.View.Lease.Mode = "isolated" }, false},
		{"degraded", func(s *controlv1.StatusResponse) { s.View.Lease.Mode = "deny-new" }, true},
		{"stale", func(s *controlv1.StatusResponse) { s.Self.Identity.Stale = true }, true},
		{"no identity", func(s *controlv1.StatusResponse) { s.Self.Identity.SvidRemainingSeconds = 0 }, true},
		{"nobody in reach", func(s *controlv1.StatusResponse) { s.Self.PeersUp = 0 }, true},
		{"a region of one", func(s *controlv1.StatusResponse) { s.Self.PeersUp, s.Self.PeersKnown = 0, 0 }, false},
		{"evidence refused", func(s *controlv1.StatusResponse) {
			s.Self.Identity.Attestation = &controlv1.Attestation{Rule: "secure-boot"}
		}, true},
		{"evidence not looked at yet", func(s *controlv1.StatusResponse) { s.Self.Identity.Attestation = &controlv1.Attestation{} }, false},
		{"released", func(s *controlv1.StatusResponse) { s.Self.Standing = "released" }, true},
	}
	for _, tt := range tests {
		s := well("n1")
		if tt.edit(s); unwell(s) != tt.want {
			t.Errorf("%s: unwell is %v", tt.name, !tt.want)
		}
	}
	if !unwell(nil) {
		t.Error("a node that does not answer is well")
	}
}

func TestShortNames(t *testing.T) {
	for in, want := range map[string]string{
		"spiffe://east.dev.example/node/n1":           "n1",
		"spiffe://east.dev.example/zone/deck/node/n1": "n1",
		"spiffe://east.dev.example/workload/shop":     "spiffe://east.dev.example/workload/shop",
	} {
		if got := shortID(in); got != want {
			t.Errorf("shortID(%s) = %s", in, got)
		}
	}
	if got := shortRevision("global@1#abcd"); got != "abcd" {
		t.Error(got)
	}
	if got := shortRevision(""); got != "" {
		t.Error(got)
	}
}

func TestValueText(t *testing.T) {
	for in, want := range map[string]string{
		"fine": `"fine"`, "": `""`, "\xa2\x01": "2 bytes", strings.Repeat("a", 61): "61 bytes", "a\nb": `"a\nb"`,
	} {
		if got := valueText([]byte(in)); got != want {
			t.Errorf("valueText(%q) = %s, want %s", in, got, want)
		}
	}
}
