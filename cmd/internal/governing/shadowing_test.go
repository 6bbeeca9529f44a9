package governing

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
)

// shadowed east is the shipped policy of the dev fleet's first region, in force.
type shadowedEast struct {
	*Shadowing
	engine  *policy.Engine
	levels  []*bundle.Verified
	store   *store.Store
	restart func() *Shadowing
}

func newShadowedEast(t testing.TB, open func(path string) (*store.Store, error)) *shadowedEast {
	t.Helper()
	st, err := open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	e := &shadowedEast{engine: policy.New(policy.Config{Require: Required}), store: st}
	for _, l := range builtin.Dev("east") {
		scope := bundle.ScopeMesh
		if l.Name == policy.Regional {
			scope = "east.dev.example"
		}
		e.levels = append(e.levels, &bundle.Verified{Record: bundle.Record{Level: l.Name, Scope: scope, Version: 1}, Content: bundle.Content{Modules: l.Modules, Data: l.Data}, Ceiling: l.Delegation})
	}
	e.activate(t)
	e.restart = func() *Shadowing {
		return &Shadowing{
			shadow: shadow.New(shadow.Config{Mask: masked(e.engine)}), staged: shadow.New(shadow.Config{}), engine: e.engine, store: st, log: slog.New(slog.DiscardHandler),
			inForce: func() []*bundle.Verified { return e.levels },
			verify: func(b []byte) (*bundle.Verified, error) {
				v := *e.levels[1]
				v.Record.Scope, v.Record.Version = string(b), 2
				return &v, nil
			},
		}
	}
	e.Shadowing = e.restart()
	return e
}

func (e *shadowedEast) activate(t testing.TB) {
	t.Helper()
	var levels []policy.Level
	for _, v := range e.levels {
		levels = append(levels, v.Level())
	}
	if err := e.engine.Activate(levels...); err != nil {
		t.Fatal(err)
	}
}

// closed is the regional level with its service closed.
func closed(t testing.TB) Candidate {
	t.Helper()
	l := builtin.Regional("east")
	b, err := bundle.Content{Modules: l.Modules, Data: l.Data}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return Candidate{Started: 1_790_000_000, Levels: []CandidateLevel{{policy.Regional, b}}}
}

func shopCalls() policy.Input {
	return policy.Input{
		V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: 1_790_000_000, Trusted: true},
		Self: &policy.Peer{Region: "east"}, Action: &policy.Action{Name: policy.Accept}, Service: &policy.Service{Name: "web", Region: "east"},
		Source: &policy.Peer{SPIFFEID: "spiffe://east.dev.example/workload/shop", TrustDomain: "east.dev.example", Region: "east", Standing: "ok", Attestation: &policy.Attestation{OK: true}},
	}
}

func TestShadowOnANode(t *testing.T) {
	e := newShadowedEast(t, store.Open)
	synctest.Test(t, func(t *testing.T) {
		s := e.restart()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		run := func(s *Shadowing) {
			go func() {
				if err := s.shadow.Run(ctx); err != nil {
					t.Error(err)
				}
			}()
		}
		run(s)
		if err := s.load(); err != nil || s.Given() != nil {
			t.Fatalf("before anything: %v, %v", s.Given(), err)
		}
		if err := s.Start(closed(t)); err != nil {
			t.Fatal(err)
		}
		if d := e.engine.Decide(ctx, shopCalls()); !d.Allow {
			t.Fatalf("what is in force changed: %+v", d)
		}
		synctest.Wait()
		r, ok := s.shadow.Report()
		if !ok || r.Counts[shadow.Denies] != 1 || r.Against != e.engine.Revision() || r.Groups[0].Candidate.Rule != "caller-not-granted" {
			t.Errorf("%+v", r)
		}

		// Other policy is put in force: it begins anew, against that.
		l := *e.levels[0]
		l.Data = map[string]any{"connect": map[string]any{"good_standing": []any{"ok"}, "unattested_trust_domains": []any{}}}
		e.levels[0] = &l
		e.activate(t)
		s.Rebase()
		e.engine.Decide(ctx, shopCalls())
		synctest.Wait()
		if r, _ := s.shadow.Report(); r.Against != e.engine.Revision() || r.Compared != 1 || r.PassedOver != 0 {
			t.Errorf("after other policy: %+v", r)
		}

		// The next process goes on with the same candidate.
		next := e.restart()
		run(next)
		if err := next.load(); err != nil || next.Given() == nil || !next.Given().Since().Equal(time.Unix(1_790_000_000, 0)) {
			t.Fatalf("after a restart: %+v, %v", next.Given(), err)
		}
		e.engine.Decide(ctx, shopCalls())
		synctest.Wait()
		if r, ok := next.shadow.Report(); !ok || r.Compared != 1 {
			t.Errorf("after a restart: %+v, %t", r, ok)
		}
		if err := next.Stop(); err != nil {
			t.Error(err)
		}
		if err := next.Stop(); !errors.Is(err, ErrNoShadow) {
			t.Errorf("stopped twice: %v", err)
		}
		last := e.restart()
		if err := last.load(); err != nil || last.Given() != nil {
			t.Errorf("after the end: %+v, %v", last.Given(), err)
		}
	})
}

// What the policy in force hides in the decision log is in no report either.
func TestShadowReportIsMasked(t *testing.T) {
	e := newShadowedEast(t, store.Open)
	l := *e.levels[1]
	l.Modules = maps.Clone(l.Modules)
	l.Modules["log.rego"] = "package bailiwick.regional.log\n\nimport rego.v2\n\nmask contains \"/input/source/spiffe_id\"\n"
	e.levels[1] = &l
	e.activate(t)
	synctest.Test(t, func(t *testing.T) {
		s := e.restart()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = s.shadow.Run(ctx) }()
		if err := s.Start(closed(t)); err != nil {
			t.Fatal(err)
		}
		in := shopCalls()
		e.engine.Decide(ctx, in)
		synctest.Wait()
		r, _ := s.shadow.Report()
		b, err := json.Marshal(r)
		if err != nil || r.Counts[shadow.Denies] != 1 || len(r.Groups[0].Examples) != 1 || strings.Contains(string(b), in.Source.SPIFFEID) {
			t.Errorf("%s, %v", b, err)
		}
	})
}

func TestWhatIsNoCandidate(t *testing.T) {
	e := newShadowedEast(t, store.Open)
	good := closed(t)
	content, err := bundle.Content{Modules: map[string]string{"connect.rego": "package bailiwick.regional.connect\n\nimport rego.v2\n\ndeny if {"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		Candidate
		want error
	}{
		"no level":         {Candidate{}, ErrShadow},
		"another region's": {Candidate{File: []byte("west.dev.example")}, ErrShadow},
		"a level twice":    {Candidate{Levels: append(good.Levels, good.Levels[0])}, ErrShadow},
		"no content":       {Candidate{Levels: []CandidateLevel{{policy.Regional, []byte("x")}}}, bundle.ErrContent},
		"no such level":    {Candidate{Levels: []CandidateLevel{{"top", good.Levels[0].Content}}}, ErrShadow},
		"no Rego":          {Candidate{Levels: []CandidateLevel{{policy.Regional, content}}}, policy.ErrCompile},
	} {
		if err := e.Start(c.Candidate); !errors.Is(err, c.want) || e.Given() != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := e.Start(Candidate{File: []byte("east.dev.example")}); err != nil {
		t.Errorf("signed: %v", err)
	}
	// A candidate that is refused leaves the one before.
	if err := e.Start(Candidate{}); !errors.Is(err, ErrShadow) || e.Given() == nil {
		t.Errorf("%v, %+v", err, e.Given())
	}
}

// Whatever commit breaks, before or after it landed: what is compared is what is kept, or the
// operator was told that it is not.
func TestShadowOnAFailingDisk(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		e := newShadowedEast(t, func(path string) (*store.Store, error) {
			return store.OpenFaulty(path, func(n int) store.Fault {
				if n == 2 {
					return fault
				}
				return store.NoFault
			})
		})
		if err := e.Start(closed(t)); err != nil {
			t.Fatal(err)
		}
		if err := e.Stop(); err == nil || e.Given() == nil {
			t.Errorf("fault %v: %v, %+v", fault, err, e.Given())
		}
		if _, ok := e.shadow.Report(); !ok {
			t.Error("it compares no more, and was not stopped")
		}
	}
}

// BenchmarkBeside shows what a candidate costs those who ask: alone, and beside one that compares.
func BenchmarkBeside(b *testing.B) {
	for _, with := range []string{"alone", "candidate"} {
		e := newShadowedEast(b, store.Open)
		ctx, cancel := context.WithCancel(b.Context())
		go func() { _ = e.shadow.Run(ctx) }() // ends without an error
		if with == "candidate" {
			if err := e.Start(closed(b)); err != nil {
				b.Fatal(err)
			}
		}
		in := shopCalls()
		e.engine.Decide(ctx, in)
		b.Run("decide/"+with, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.engine.Decide(ctx, in)
			}
		})
		b.Run("recall/"+with, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if e.engine.Recall(in) == nil {
					b.Fatal("it is not remembered")
				}
			}
		})
		cancel()
	}
}
