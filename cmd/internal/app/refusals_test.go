package app

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/authz"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// A refused question is on record as its asker's, not as that of whom it names, and the record of
// them does not grow with how often somebody asks.
func TestRefusedQuestions(t *testing.T) {
	st := openStore(t, t.TempDir()+"/state.db")
	set, _ := testTrust(t)
	log := slog.New(slog.DiscardHandler)
	engine := policy.New(policy.Config{})
	if err := engine.Activate(builtin.Global()); err != nil {
		t.Fatal(err)
	}
	a := &App{cfg: config.Config{Node: nodeN1}, store: st, engine: engine, metrics: prometheus.NewRegistry(), creds: &enrolling.Credentials{},
		dir: newDirectory(nodeN1, set, &summary.Tracker{}, log), decisions: decision.New(decision.Config{Engine: engine, Store: st, Dir: t.TempDir()})}
	a.subjects = &subjects{self: nodeN1, dir: a.dir, standing: newStandings(quarantine.NewSet(tdEast, quarantine.Checks{}), st, log, nil),
		attested: func(spiffeid.ID) policyAttestation { return policyAttestation{} }}
	a.data = &dataPath{app: a}
	n, err := openNeighbours(a)
	if err != nil {
		t.Fatal(err)
	}
	other := spiffeid.RequireFromString("spiffe://east.dev.example/workload/other")
	early := n.Decide(t.Context(), nil, authz.Question{API: "ext_authz", Subject: other, Service: "web.east.mesh"})
	if early.Allow || early.Rule != authz.RuleNotReady || !strings.Contains(early.Reason, "it has no identity") || early.ID == "" {
		t.Errorf("before there is an identity: %+v", early)
	}
	n.ready.Store(true)
	n.refused = refusedUsers{}
	ids := map[string]int{}
	const asked = 3 * refusedEach
	for i := range asked {
		q := authz.Question{API: "authzen", Subject: other, Service: "web.east.mesh"}
		want := "asks-for-others"
		if i%2 == 1 {
			q.Err, want = authz.ErrQuestion, authz.RuleQuestion
		}
		d := n.Decide(t.Context(), nil, q)
		if ids[d.ID]++; d.Allow || d.Rule != want || d.ID == "" || d.Source != "" || strings.Contains(string(d.Input), other.String()) {
			t.Fatalf("question %d: %+v", i, d)
		}
		if i < 2 && !strings.Contains(d.Reason, "user -1") {
			t.Errorf("the record does not say who asked: %s", d.Reason)
		}
	}
	if len(ids) != refusedEach+1 {
		t.Errorf("%d records of %d questions, want %d", len(ids), asked, refusedEach+1)
	}
	counted := testutil.ToFloat64(n.counted.WithLabelValues("authzen", "asks-for-others")) + testutil.ToFloat64(n.counted.WithLabelValues("authzen", authz.RuleQuestion))
	if counted != asked-refusedEach {
		t.Errorf("%v counted, want %d", counted, asked-refusedEach)
	}
}

func TestRefusedUsers(t *testing.T) {
	var r refusedUsers
	now, events := time.Unix(1e9, 0), 0
	ask := func(uid int64, times int) (beyond int) {
		for range times {
			if _, b := r.beyond(uid, now, func(time.Time) policy.Decision { events++; return policy.Decision{} }); b {
				beyond++
			}
		}
		return beyond
	}
	if got := ask(1, refusedEach+5); got != 5 || events != 1 {
		t.Errorf("%d beyond, %d events", got, events)
	}
	if got := ask(2, refusedEach); got != 0 || events != 1 {
		t.Errorf("another user: %d beyond, %d events", got, events)
	}
	now = now.Add(refusedPeriod)
	if got := ask(1, refusedEach+1); got != 1 || events != 2 {
		t.Errorf("in the next period: %d beyond, %d events", got, events)
	}
	for uid := range int64(4 * maxAskers) {
		ask(uid+10, 1)
	}
	if len(r.of) > maxAskers+1 || ask(1, 1) != 1 {
		t.Errorf("%d users are remembered, want at most %d, and those that were too often", len(r.of), maxAskers+1)
	}
	if got := ask(1<<40, 1); got != 1 {
		t.Error("who finds no room is not counted with the others")
	}
}
