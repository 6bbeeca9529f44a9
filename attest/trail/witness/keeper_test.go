package witness

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// keeper is a witness of l over the store at path.
func keeper(t *testing.T, l *log, path string, faults func(int) store.Fault) (*Keeper, *store.Store, Roster) {
	t.Helper()
	s, err := store.OpenFaulty(path, faults)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	all, r := keys(t, nodes(8)...)
	self := r.Choose(l.owner)[0].ID
	var key *Key
	for i, id := range nodes(8) {
		if id == self {
			key = all[i]
		}
	}
	return New(Config{
		Self: self, Key: key, Store: s, Roster: only(r), Now: func() time.Time { return t0 },
		Log: func(origin string) (Log, bool) { return l.log(), origin == l.origin },
	}), s, r
}

func sound(int) store.Fault { return store.NoFault }

func TestKeeper(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(100, "x")
	path := filepath.Join(t.TempDir(), "state.db")
	k, s, r := keeper(t, l, path, sound)
	add := func(req Request) Answer { return k.Add(l.owner, req.Encode()) }
	if a := add(l.request(0, 21, r.Hash())); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	} else if _, err := Open(headText(l, 21, r.Hash()), string(a.Body), r.Choose(l.owner)[0]); err != nil {
		t.Error(err)
	}
	if a := add(l.request(0, 100, r.Hash())); a.Status != 409 || string(a.Body) != "21\n" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := add(l.request(21, 100, r.Hash())); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := k.Add(l.owner, newLog(t, node("node/n2")).grow(2, "x").request(0, 2, r.Hash()).Encode()); a.Status != 404 {
		t.Errorf("unknown: %d", a.Status)
	}
	for _, b := range []string{"", "old 0\n\nx", "old 0\n\nx\n1\nAAAA\n\n"} {
		if a := k.Add(l.owner, []byte(b)); a.Status != 400 {
			t.Errorf("%q: %d", b, a.Status)
		}
	}
	if n, _ := s.Pending(); n != 0 {
		t.Errorf("%d leaves for what is no refusal", n)
	}
	// A hint is told once a minute, and of the owner's own requests only.
	for range 3 {
		if a := k.Add(node("node/w00"), l.request(50, 50, r.Hash()).Encode()); a.Status != 409 || string(a.Body) != "100\n" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	if n, _ := s.Pending(); n != 0 {
		t.Errorf("%d leaves about what a relay had", n)
	}
	for range 3 {
		add(l.request(50, 50, r.Hash()))
	}
	waiting, err := s.Outbox(0, 10)
	if err != nil || len(waiting) != 1 || waiting[0].Kind != trail.WitnessRefuse.Name() {
		t.Fatalf("%+v, %v", waiting, err)
	}
	var body struct {
		Why    string `cbor:"why"`
		Node   string `cbor:"node"`
		Origin string `cbor:"origin"`
		Had    uint64 `cbor:"had"`
		Head   []byte `cbor:"head"`
		Detail string `cbor:"detail"`
	}
	if err := statement.Unmarshal(waiting[0].Body, &body); err != nil || body.Why != "rollback" || body.Had != 100 || body.Node != l.owner.String() {
		t.Errorf("%+v, %v", body, err)
	}
	// What it cosigned is known after a restart, and a fork for good.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	k, s, _ = keeper(t, l, path, sound)
	var found []*Conflict
	k.cfg.Refused = func(_ Log, _ Reason, _ string, c *Conflict) { found = append(found, c) }
	f := l.fork(50).grow(60, "f")
	if a := add(f.request(100, 110, r.Hash())); a.Status != 422 || len(found) != 1 || found[0] == nil {
		t.Fatalf("%d %s %v", a.Status, a.Body, found)
	}
	for range 3 {
		if a := add(l.request(100, 100, r.Hash())); a.Status != 403 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	if n, _ := s.Pending(); n != 2 || len(found) != 1 {
		t.Errorf("%d leaves, %d proofs", n, len(found))
	}
	if kept, err := k.Kept(l.origin); err != nil || !kept.Forked || kept.Size != 100 {
		t.Errorf("%+v, %v", kept, err)
	}
}

// Whatever happens to the disk before or after a commit, a witness that comes back never
// cosigns two histories: what it said is what it remembers.
func TestCosignedIsDurable(t *testing.T) {
	for name, fault := range map[string]store.Fault{"before": store.FaultBefore, "after": store.FaultAfter} {
		for at := 1; at <= 3; at++ {
			l := newLog(t, node("node/n1")).grow(40, "x")
			f := l.fork(5).grow(35, "f")
			path := filepath.Join(t.TempDir(), "state.db")
			k, s, r := keeper(t, l, path, func(op int) store.Fault {
				if op == at {
					return fault
				}
				return store.NoFault
			})
			said := 0
			for i, size := range []int{11, 21, 31} {
				kept, err := k.Kept(l.origin)
				if err != nil {
					break
				}
				if a := k.Add(l.owner, l.request(int(kept.Size), size, r.Hash()).Encode()); a.Status == 200 {
					said = size
				} else if a.Status != 503 || i+1 < at {
					t.Errorf("%s %d: %d %s", name, at, a.Status, a.Body)
				}
			}
			_ = s.Close()
			k, _, _ = keeper(t, l, path, sound)
			kept, err := k.Kept(l.origin)
			if err != nil || int(kept.Size) < said {
				t.Fatalf("%s %d: said %d, remembers %d: %v", name, at, said, kept.Size, err)
			}
			if said > 0 {
				if a := k.Add(l.owner, f.request(int(kept.Size), 40, r.Hash()).Encode()); a.Status == 200 {
					t.Errorf("%s %d: it cosigned two histories", name, at)
				}
			}
		}
	}
}

// Of two requests at once that both extend what is kept, only consistent ones pass.
func TestRequestsAtOnce(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(30, "x")
	f := l.fork(20).grow(10, "f")
	k, _, r := keeper(t, l, filepath.Join(t.TempDir(), "state.db"), sound)
	k.Add(l.owner, l.request(0, 20, r.Hash()).Encode())
	var all sync.WaitGroup
	answers := make([]Answer, 2)
	for i, b := range [][]byte{l.request(20, 30, r.Hash()).Encode(), f.request(20, 30, r.Hash()).Encode()} {
		all.Go(func() { answers[i] = k.Add(l.owner, b) })
	}
	all.Wait()
	if (answers[0].Status == 200) == (answers[1].Status == 200) {
		t.Errorf("%d and %d", answers[0].Status, answers[1].Status)
	}
}

func FuzzParseRoster(f *testing.F) {
	_, r := keys(f, nodes(3)...)
	f.Add(r.Bytes())
	f.Add([]byte("witness x y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRoster(b)
		if err != nil {
			return
		}
		again, err := NewRoster(r.Members())
		if err != nil || string(again.Bytes()) != string(b) {
			t.Errorf("%q has another spelling: %q, %v", b, again.Bytes(), err)
		}
		r.Choose(node("node/n1"))
	})
}

func FuzzParseRequest(f *testing.F) {
	l := newLog(f, node("node/n1")).grow(9, "x")
	f.Add(l.request(5, 9, [32]byte{1}).Encode())
	f.Add([]byte("old 0\n\nx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err == nil && string(r.Encode()) != string(b) {
			t.Errorf("%q has another spelling: %q", b, r.Encode())
		}
		if err == nil {
			Decide(Kept{}, l.log(), r, l.owner, only(Roster{}))
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("409\n12\n"))
	f.Add([]byte("200\n— x y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseAnswer(b); err == nil {
			if string(a.Encode()) != string(b) {
				t.Errorf("%q has another spelling: %q", b, a.Encode())
			}
			a.Size()
			Assemble([]byte("x\n\n"), a.Body)
		}
	})
}

func FuzzOpen(f *testing.F) {
	all, r := keys(f, nodes(1)...)
	good := all[0].cosign(frozenText, t0)
	f.Add(good)
	f.Fuzz(func(t *testing.T, line string) {
		if _, err := Open(frozenText, line, r.Members()[0]); err == nil && line != good {
			t.Errorf("%q is a cosignature too", line)
		}
	})
}

func FuzzParseAccusation(f *testing.F) {
	l := newLog(f, node("node/n1")).grow(9, "x")
	other := l.fork(3).grow(6, "y")
	b, err := Accusation{Conflict{l.vkey, l.head(5, [32]byte{}), other.head(9, [32]byte{}), other.proof(5, 9)}, nil}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAccusation(b)
		if err != nil {
			return
		}
		if again, err := a.Encode(); err != nil || string(again) != string(b) {
			t.Errorf("another spelling: %v", err)
		}
		_, _ = a.Verify()
	})
}
