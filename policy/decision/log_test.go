package decision

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// oracle allows the service "web".
type oracle struct{}

func (oracle) Recall(policy.Input) *policy.Decision { return nil }

func (oracle) Decide(_ context.Context, in policy.Input) policy.Decision {
	d := policy.Decision{ID: policy.NewID(), Kind: in.Kind, Source: in.Source.SPIFFEID, Target: in.Service.Name, Level: policy.Global,
		Rule: "r", Reason: "because", Revision: "global@1#00", Input: []byte(`{"v":1}`), At: time.Unix(in.Time.Unix, 0).UTC()}
	d.Allow = in.Service.Name == "web"
	return d
}

func ask(service string) policy.Input {
	return policy.Input{Kind: policy.Connect, Source: &policy.Peer{SPIFFEID: "spiffe://east.dev.example/workload/shop"}, Service: &policy.Service{Name: service}}
}

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func leaves(t *testing.T, s *store.Store, kind string) []store.Entry {
	t.Helper()
	all, err := s.Outbox(0, 10000)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Entry
	for _, e := range all {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func TestDenialIsRecordedBeforeItIsReturned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir()})
	if _, err := l.Last(); !errors.Is(err, ErrNotFound) {
		t.Errorf("before anything: %v", err)
	}
	d := l.Decide(t.Context(), ask("db"))
	if d.Allow {
		t.Fatal("allowed")
	}
	got := leaves(t, s, "decision.deny")
	if len(got) != 1 {
		t.Fatalf("%d leaves", len(got))
	}
	var leaf denyLeaf
	if err := statement.Unmarshal(got[0].Body, &leaf); err != nil {
		t.Fatal(err)
	}
	kept, err := l.Last()
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := kept.Commitment(); !ok || leaf.ID != d.ID || leaf.Rule != "r" || leaf.Target != "db" || string(leaf.Commitment) != string(c[:]) {
		t.Errorf("leaf %+v", leaf)
	}
	s.Close()
	l = New(Config{Store: open(t, path), Engine: oracle{}, Dir: t.TempDir()})
	for _, get := range []func() (Event, error){l.Last, func() (Event, error) { return l.Get(d.ID) }, func() (Event, error) { return l.Get(strings.ToUpper(d.ID[:8])) }} {
		kept, err := get()
		if err != nil || kept.DecisionID != d.ID || string(kept.Input) != string(d.Input) || kept.Result.Rule != "r" || kept.RequestID != 1 {
			t.Errorf("after a restart: %+v, %v", kept, err)
		}
	}
	if _, err := l.Get("ffffffff"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	for _, id := range []string{"", "f", "zzzz", "fffffff/", strings.Repeat("f", 33)} {
		if _, err := l.Get(id); err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrAmbiguous) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestAllowsAreCounted(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SampleEvery: 50})
	for range 120 {
		if !l.Decide(t.Context(), ask("web")).Allow {
			t.Fatal("denied")
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil { // nothing to say, no leaf
		t.Fatal(err)
	}
	got := leaves(t, s, "decision.allow")
	if len(got) != 4 { // the 1st, the 51st, the 101st, and the flush
		t.Errorf("%d leaves", len(got))
	}
	total := uint64(0)
	for _, e := range got {
		var leaf allowLeaf
		if err := statement.Unmarshal(e.Body, &leaf); err != nil {
			t.Fatal(err)
		}
		for _, c := range leaf.Counts {
			total += c.N
		}
	}
	if total != 120 {
		t.Errorf("counted %d", total)
	}
}

// An allow is kept by the transaction of whoever acts on it, or not at all; a denial at once.
func TestDecideWithin(t *testing.T) {
	commits, kept := 0, 0
	s, err := store.OpenFaulty(filepath.Join(t.TempDir(), "db"), func(int) store.Fault {
		commits++
		return store.NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SampleEvery: 3})
	refused := errors.New("the admission was refused")
	for i, want := range []bool{true, false, false, true} {
		d, keep := l.DecideWithin(t.Context(), ask("web"))
		if !d.Allow || (keep != nil) != want || commits != kept {
			t.Fatalf("allow %d: %+v, to be kept: %t, %d commits, want %d", i, d, keep != nil, commits, kept)
		}
		if keep == nil {
			continue
		}
		err := s.Update(func(tx *store.Tx) error { return errors.Join(keep(tx), refused) })
		if _, gerr := l.Get(d.ID); !errors.Is(err, refused) || !errors.Is(gerr, ErrNotFound) {
			t.Errorf("kept without its admission: %v, %v", err, gerr)
		}
		if err := s.Update(keep); err != nil {
			t.Error(err)
		}
		kept++
		if got, err := l.Get(d.ID); err != nil || !got.Result.Allow || got.RequestedBy != d.Source {
			t.Errorf("kept: %+v, %v", got, err)
		}
	}
	d, keep := l.DecideWithin(t.Context(), ask("db"))
	if got, err := l.Last(); d.Allow || keep != nil || err != nil || got.DecisionID != d.ID || commits != kept+1 {
		t.Errorf("a denial: %+v, %v, %d commits, want %d", d, err, commits, kept+1)
	}
}

// Not recorded, not admitted: whatever commit breaks, and whether it was lost or landed.
func TestFaultsDeny(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for n := 1; n <= 4; n++ {
			path := filepath.Join(t.TempDir(), "db")
			s, err := store.OpenFaulty(path, func(op int) store.Fault {
				if op == n {
					return fault
				}
				return store.NoFault
			})
			if err != nil {
				t.Fatal(err)
			}
			l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), SampleEvery: 2})
			broken := false
			for i := range 6 {
				allow, deny := l.Decide(t.Context(), ask("web")), l.Decide(t.Context(), ask("db"))
				if deny.Allow {
					t.Fatal("a denial became an allow")
				}
				if strings.Contains(deny.Reason, "not recorded") {
					broken = true
				}
				if !allow.Allow {
					broken = true
					if allow.Rule != RuleNotRecorded || allow.Grants != nil || !strings.Contains(allow.Reason, "not admitted") {
						t.Errorf("%+v", allow)
					}
				}
				if broken && i > 3 && allow.Allow {
					t.Errorf("fault %v at %d: an allow after the store broke", fault, n)
				}
			}
			if !broken {
				t.Errorf("fault %v at %d was not noticed", fault, n)
			}
			if err := l.Flush(); err != nil && !errors.Is(err, store.ErrBroken) {
				t.Error(err)
			}
			s.Close()
			again := New(Config{Store: open(t, path), Engine: oracle{}, Dir: t.TempDir()})
			if !again.Decide(t.Context(), ask("web")).Allow {
				t.Error("denied after a restart")
			}
			// Every kept denial has its leaf, and the other way round.
			kept := 0
			again.cfg.Store.View(func(tx *store.Tx) error {
				tx.Range(activeBucket, nil, func(k, _ []byte) bool {
					if k[24] == denied {
						kept++
					}
					return true
				})
				return nil
			})
			if n := len(leaves(t, again.cfg.Store, "decision.deny")); kept != n {
				t.Errorf("fault %v at %d: %d kept, %d leaves", fault, n, kept, n)
			}
		}
	}
}

func TestConcurrentDenialsShareCommits(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir()})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for range 5 {
				d := l.Decide(t.Context(), ask(fmt.Sprint("db", i)))
				if got, err := l.Get(d.ID); err != nil || got.DecisionID != d.ID {
					t.Errorf("returned before it was kept: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(leaves(t, s, "decision.deny")); n != 200 {
		t.Errorf("%d leaves", n)
	}
}

func TestRunFlushes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), FlushEvery: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		for range 3 {
			l.Decide(ctx, ask("web"))
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if n := len(leaves(t, s, "decision.allow")); n != 2 {
			t.Errorf("%d leaves after a flush", n)
		}
		l.Decide(ctx, ask("web"))
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := len(leaves(t, s, "decision.allow")); n != 3 {
			t.Errorf("%d leaves after the end", n)
		}
	})
}

func TestRecordGivesIDAndTime(t *testing.T) {
	l := New(Config{Store: open(t, filepath.Join(t.TempDir(), "db")), Engine: oracle{}, Dir: t.TempDir()})
	d := l.Record(policy.Decision{Kind: policy.Connect, ID: "no", Rule: "unattributed", Reason: "the socket has no process"})
	if len(d.ID) != 32 || d.At.IsZero() {
		t.Errorf("%+v", d)
	}
	if last, err := l.Last(); err != nil || last.DecisionID != d.ID {
		t.Errorf("%+v %v", last, err)
	}
}

// A denial that could not be recorded stays one, and the trail is told that one is missing.
func TestUnrecordedDenialsAreAGap(t *testing.T) {
	s, err := store.OpenFaulty(filepath.Join(t.TempDir(), "db"), func(int) store.Fault { return store.FaultBefore })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	gaps := map[string]uint64{}
	l := New(Config{Store: s, Engine: oracle{}, Dir: t.TempDir(), Gap: func(n uint64, why string) { gaps[why] += n }})
	for range 3 {
		if d := l.Decide(t.Context(), ask("db")); d.Allow || !strings.Contains(d.Reason, "not recorded") {
			t.Fatalf("%+v", d)
		}
	}
	if d := l.Decide(t.Context(), ask("web")); d.Allow || d.Rule != RuleNotRecorded {
		t.Fatalf("%+v", d)
	}
	if len(gaps) != 1 || gaps["denials could not be recorded"] != 3 {
		t.Errorf("gaps %v", gaps)
	}
}
