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
	l := New(Config{Store: s, Engine: oracle{}})
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
	if digest := statement.Digest(d.Input); leaf.ID != d.ID || leaf.Rule != "r" || leaf.Target != "db" || string(leaf.Input) != string(digest[:]) {
		t.Errorf("leaf %+v", leaf)
	}
	s.Close()
	l = New(Config{Store: open(t, path), Engine: oracle{}})
	for _, get := range []func() (policy.Decision, error){l.Last, func() (policy.Decision, error) { return l.Get(d.ID) }, func() (policy.Decision, error) { return l.Get(strings.ToUpper(d.ID[:8])) }} {
		kept, err := get()
		if err != nil || kept.ID != d.ID || string(kept.Input) != string(d.Input) || !kept.At.Equal(d.At) {
			t.Errorf("after a restart: %+v, %v", kept, err)
		}
	}
	if _, err := l.Get("ffffffff"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := l.Get("f"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("short: %v", err)
	}
}

func TestRingIsBounded(t *testing.T) {
	l := New(Config{Store: open(t, filepath.Join(t.TempDir(), "db")), Engine: oracle{}, Denials: 5, Allows: 3, SampleEvery: 1})
	var last policy.Decision
	for i := range 12 {
		l.Decide(t.Context(), ask("web"))
		last = l.Decide(t.Context(), ask(fmt.Sprint("db", i)))
	}
	all, err := l.Recent(100)
	if err != nil || len(all) != 5 || all[0].ID != last.ID {
		t.Errorf("%d kept, %v", len(all), err)
	}
	if two, _ := l.Recent(2); len(two) != 2 || two[0].ID != last.ID {
		t.Errorf("Recent(2) gave %d", len(two))
	}
	n := 0
	l.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(allows, nil, func(_, _ []byte) bool { n++; return true })
		return nil
	})
	if n != 3 {
		t.Errorf("%d allows kept", n)
	}
}

func TestAllowsAreCounted(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}, SampleEvery: 50})
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
			l := New(Config{Store: s, Engine: oracle{}, SampleEvery: 2})
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
					if allow.Rule != RuleNotRecorded || allow.Grant != nil || !strings.Contains(allow.Reason, "not admitted") {
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
			again := New(Config{Store: open(t, path), Engine: oracle{}})
			if !again.Decide(t.Context(), ask("web")).Allow {
				t.Error("denied after a restart")
			}
			// Every kept denial has its leaf, and the other way round.
			kept, err := again.Recent(1000)
			if err != nil || len(kept) != len(leaves(t, again.cfg.Store, "decision.deny")) {
				t.Errorf("fault %v at %d: %d kept, %d leaves, %v", fault, n, len(kept), len(leaves(t, again.cfg.Store, "decision.deny")), err)
			}
		}
	}
}

func TestConcurrentDenialsShareCommits(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: oracle{}})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for range 5 {
				d := l.Decide(t.Context(), ask(fmt.Sprint("db", i)))
				if got, err := l.Get(d.ID); err != nil || got.ID != d.ID {
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
		l := New(Config{Store: s, Engine: oracle{}, FlushEvery: time.Minute})
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
	l := New(Config{Store: open(t, filepath.Join(t.TempDir(), "db")), Engine: oracle{}})
	d := l.Record(policy.Decision{Kind: policy.Connect, ID: "no", Rule: "unattributed", Reason: "the socket has no process"})
	if len(d.ID) != 32 || d.At.IsZero() {
		t.Errorf("%+v", d)
	}
	if last, err := l.Last(); err != nil || last.ID != d.ID {
		t.Errorf("%+v %v", last, err)
	}
}
