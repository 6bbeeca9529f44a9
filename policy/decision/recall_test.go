package decision

import (
	"path/filepath"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// remembering is a real engine that lets web be called, and nothing else.
func remembering(t testing.TB) *policy.Engine {
	t.Helper()
	e := policy.New(policy.Config{})
	err := e.Activate(policy.Level{Name: policy.Global, Revision: "1", Delegation: policy.Delegation{All: true}, Modules: map[string]string{"connect.rego": `# METADATA
# labels:
#   owner: test
package bailiwick.global.connect

import rego.v2

# METADATA
# title: web is for all
allow contains "web" if input.service.name == "web"
`}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func allowsCounted(t *testing.T, s *store.Store) (n uint64) {
	t.Helper()
	for _, e := range leaves(t, s, "decision.allow") {
		var leaf allowLeaf
		if err := statement.Unmarshal(e.Body, &leaf); err != nil {
			t.Fatal(err)
		}
		for _, c := range leaf.Counts {
			n += c.N
		}
	}
	return n
}

// What is remembered is recorded as what is not: denials each, with their own ID and input, allows
// counted and sampled whole.
func TestRememberedIsRecorded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: remembering(t), Dir: t.TempDir(), SampleEvery: 10})
	denied := map[string]bool{}
	cached := 0
	for i := range 25 {
		allow := l.Decide(t.Context(), ask("web"))
		if !allow.Allow || allow.Rule != "web" || allow.At.IsZero() || allow.Cached != (i > 0) {
			t.Fatalf("%d: %+v", i, allow)
		}
		if allow.Input == nil {
			cached++
		}
		deny := l.Decide(t.Context(), ask("db"))
		if deny.Allow || deny.Input == nil || denied[deny.ID] {
			t.Fatalf("%d: %+v", i, deny)
		}
		denied[deny.ID] = true
		if kept, err := l.Last(); err != nil || kept.DecisionID != deny.ID || kept.Input == nil {
			t.Fatalf("%d: %+v, %v", i, kept, err)
		}
		if i == 12 {
			if err := l.Flush(); err != nil { // counts start anew, samples do not
				t.Fatal(err)
			}
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := allowsCounted(t, s); n != 25 {
		t.Errorf("%d allows are counted, of 25", n)
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for e, err := range Read(l.cfg.Dir) {
		if err != nil || len(e.Input) == 0 {
			t.Errorf("%+v, %v", e, err)
		}
		if e.Result.Allow {
			kept++
		}
	}
	if kept != 3 { // the 1st, the 11th and the 21st
		t.Errorf("%d allows are kept whole", kept)
	}
	if got := leaves(t, s, "decision.deny"); len(got) != 25 {
		t.Errorf("%d denials are leaves", len(got))
	}
	if cached < 15 {
		t.Errorf("only %d of 25 allows were recalled", cached)
	}
}

// Nothing is let through on memory alone while nothing can be recorded.
func TestRememberedIsNotAdmittedUnrecorded(t *testing.T) {
	broken := false
	s, err := store.OpenFaulty(filepath.Join(t.TempDir(), "db"), func(int) store.Fault {
		if broken {
			return store.FaultBefore
		}
		return store.NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := New(Config{Store: s, Engine: remembering(t), Dir: t.TempDir()})
	for range 3 {
		if d := l.Decide(t.Context(), ask("web")); !d.Allow {
			t.Fatal(d.Explain())
		}
	}
	broken = true
	if l.Flush() == nil {
		t.Fatal("the store is not broken")
	}
	if d := l.Decide(t.Context(), ask("web")); d.Allow || d.Rule != RuleNotRecorded {
		t.Errorf("%s", d.Explain())
	}
}

func TestRecallAllocatesNothing(t *testing.T) {
	l := New(Config{Store: open(t, filepath.Join(t.TempDir(), "db")), Engine: remembering(t), Dir: t.TempDir(), SampleEvery: 1 << 30})
	in := ask("web")
	for range 2 {
		l.Decide(t.Context(), in)
	}
	if n := testing.AllocsPerRun(100, func() {
		if !l.Decide(t.Context(), in).Allow {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRecalled(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	l := New(Config{Store: s, Engine: remembering(b), Dir: b.TempDir(), SampleEvery: 1 << 30})
	in := ask("web")
	b.ReportAllocs()
	for b.Loop() {
		if !l.Decide(b.Context(), in).Allow {
			b.Fatal("denied")
		}
	}
}
