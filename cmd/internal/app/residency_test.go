package app

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

var (
	here  = spiffeid.RequireFromString("spiffe://east.dev.example/zone/oslo/node/n1")
	near  = spiffeid.RequireFromString("spiffe://east.dev.example/zone/oslo/node/n2")
	there = spiffeid.RequireFromString("spiffe://east.dev.example/zone/boston/node/n3")
)

// testResidency is of a policy in which x-patient is gdpr, which may be in Oslo, and x-secret of a
// class that nobody knows.
func testResidency(t *testing.T, others ...spiffeid.ID) (*residency, *[]policy.Decision) {
	t.Helper()
	l := builtin.Global()
	l.Schemas = map[string]string{
		"schemas/patient.json": `{"kind": "x-patient", "version": 1, "classes": ["gdpr"], "schema": true}`,
		"schemas/ward.json":    `{"kind": "x-patient", "prefix": "ward-", "version": 1, "schema": true}`,
		"schemas/secret.json":  `{"kind": "x-secret", "version": 1, "classes": ["unheard-of"], "schema": true}`,
	}
	l.Data["residency"] = map[string]any{
		"classes":     map[string]any{"gdpr": map[string]any{"geographies": []any{"eea"}}},
		"geographies": map[string]any{"eea": map[string]any{"zones": []any{"east/oslo"}}},
	}
	engine := policy.New(policy.Config{})
	if err := engine.Activate(l); err != nil {
		t.Fatal(err)
	}
	var recorded []policy.Decision
	now := time.Unix(1_790_000_000, 0)
	return &residency{
		self: here, engine: engine, log: slog.New(slog.DiscardHandler),
		now:    func() time.Time { now = now.Add(askAgain / 4); return now },
		others: func() []spiffeid.ID { return others },
		record: func(d policy.Decision) policy.Decision { recorded = append(recorded, d); return d },
		subject: func(id spiffeid.ID) *policy.Peer {
			n, err := identity.ParseNode(id)
			if err != nil {
				t.Fatal(err)
			}
			return &policy.Peer{SPIFFEID: id.String(), Node: n.Name, Zone: n.Zone, Region: "east"}
		},
	}, &recorded
}

func putOf(kind, name string) feed.Op {
	return feed.Op{Key: feed.KeyOf(here, kind, name), Action: feed.Put, Value: []byte("{}"), Scope: feed.ScopeRegion}
}

func TestResidencyOfWrites(t *testing.T) {
	for _, tt := range []struct {
		op     feed.Op
		others []spiffeid.ID
		err    string
	}{
		{putOf("x-note", "a"), []spiffeid.ID{near, there}, ""},
		{putOf("x-patient", "a"), []spiffeid.ID{near}, ""},
		{putOf("x-patient", "a"), []spiffeid.ID{near, there}, "is of gdpr and " + there.String() + " would have it"},
		{putOf("x-patient", "ward-7"), []spiffeid.ID{there}, "is of gdpr"}, // a longer prefix takes no class away
		{putOf("x-secret", "a"), nil, "is of unheard-of and " + here.String()},
		{feed.Op{Key: putOf("x-patient", "a").Key, Action: feed.Del, Scope: feed.ScopeRegion}, []spiffeid.ID{there}, ""},
	} {
		x, recorded := testResidency(t, tt.others...)
		for range 20 { // minutes go by
			err := x.local(tt.op)
			if (err == nil) != (tt.err == "") || err != nil && (!errors.Is(err, ErrResidency) || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%s: %v, want %q", tt.op.Key, err, tt.err)
			}
		}
		denied := 0
		for _, d := range *recorded {
			if !d.Allow {
				denied++
			}
		}
		if (denied == 1) != (tt.err != "") {
			t.Errorf("%s: %d denials on record", tt.op.Key, denied)
		}
	}
}

// Another policy is another answer, at once.
func TestResidencyFollowsPolicy(t *testing.T) {
	x, _ := testResidency(t, there)
	if x.local(putOf("x-patient", "a")) == nil {
		t.Fatal("written before")
	}
	if err := x.engine.Activate(builtin.Global()); err != nil { // no labels
		t.Fatal(err)
	}
	if err := x.local(putOf("x-patient", "a")); err != nil {
		t.Errorf("refused without a label: %v", err)
	}
}
