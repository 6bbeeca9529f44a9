package decision

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// secret is in everything that may be about people.
const secret = "alice-4711"

func secretive(id int, kind policy.Kind, classes ...string) policy.Decision {
	in, _ := json.Marshal(map[string]any{"v": 1, "kind": kind, "request": map[string]any{"path": []string{secret}}, "resource": map[string]any{"classes": classes}})
	return policy.Decision{ID: fmt.Sprintf("%032x", id), Kind: kind, Source: "spiffe://east.dev.example/workload/" + secret, Target: secret, Level: policy.Regional, Rule: "closed",
		Title: "Closed", Reason: "no " + secret, Revision: "global@1#00", Input: in, Grants: []policy.Grant{{ID: secret}},
		Verdicts: []policy.Verdict{{Level: policy.Global, Outcome: policy.Pass}, {Level: policy.Regional, Outcome: policy.Denied, Reason: secret}}, At: time.Unix(1, 0).UTC()}
}

// sealing is a state folder with a log that seals.
type sealing struct {
	dir  string
	s    *store.Store
	keys *payload.Keys
	log  *Log
}

func newSealing(t *testing.T) *sealing {
	t.Helper()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "db"))
	keys, err := payload.Open(filepath.Join(dir, payload.DirName), s)
	if err != nil {
		t.Fatal(err)
	}
	return &sealing{dir, s, keys, New(Config{Store: s, Engine: oracle{}, Dir: filepath.Join(dir, DirName), Keys: keys})}
}

func (f *sealing) erase(t *testing.T, o payload.Order) {
	t.Helper()
	o.By, o.Reason = "uid 0", "request 4711"
	if done, err := f.keys.Erase(o, time.Now(), func(*store.Tx, payload.Order) error { return nil }); err != nil || done.Keys == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
}

// everywhere is every byte of the folder, what is compressed also unpacked, and every open event.
func (f *sealing) everywhere(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	f.s.View(func(tx *store.Tx) error {
		tx.Range(activeBucket, nil, func(k, v []byte) bool { all.Write(v); return true })
		return nil
	})
	filepath.WalkDir(f.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(path, payload.DirName) {
			b, _ := os.ReadFile(path)
			all.Write(b)
			if _, ok := segmentNumber(d.Name()); ok {
				readSegment(b, func(line []byte) error { all.Write(line); return nil })
			}
		}
		return err
	})
	return all.String()
}

// What an event is about is nowhere but in its box; whoever has the key reads it as it was.
func TestSealed(t *testing.T) {
	f := newSealing(t)
	plain := New(Config{Store: open(t, filepath.Join(t.TempDir(), "db")), Engine: oracle{}, Dir: t.TempDir()})
	for i, kind := range policy.Kinds {
		f.log.Record(secretive(i, kind, "customer"))
		plain.Record(secretive(i, kind, "customer"))
	}
	for _, where := range []string{"open", "in a segment"} {
		for i := range policy.Kinds {
			id := fmt.Sprintf("%032x", i)
			got, err := f.log.Get(id)
			want, werr := plain.Get(id)
			if err != nil || werr != nil || len(got.Salt) != 2*payload.SaltSize || got.Sealed != nil || got.Erasure != nil {
				t.Fatalf("%s: %+v, %v, %v", where, got, err, werr)
			}
			got.Salt, got.Timestamp, want.Salt, want.Timestamp = "", time.Time{}, "", time.Time{}
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			if !bytes.Equal(a, b) || !strings.Contains(string(a), secret) {
				t.Errorf("%s: got\n%s\nwant\n%s", where, a, b)
			}
		}
		last, err := f.log.Last()
		if err != nil || !strings.Contains(string(last.Input), secret) {
			t.Errorf("%s: last %+v, %v", where, last, err)
		}
		if err := f.log.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	// The leaves, which stay in the outbox here, name the caller and the target: a commitment only has the rest.
	for _, leaf := range leaves(t, f.s, "decision.deny") {
		var d denyLeaf
		if err := statement.Unmarshal(leaf.Body, &d); err != nil {
			t.Fatal(err)
		}
		e, err := f.log.Get(d.ID)
		if c, ok := e.Commitment(); err != nil || !ok || !bytes.Equal(c[:], d.Commitment) {
			t.Errorf("%s: commitment %x, %v", d.ID, c, err)
		}
		e.Input = append(e.Input[:len(e.Input)-1], ' ', '}')
		if c, _ := e.Commitment(); bytes.Equal(c[:], d.Commitment) {
			t.Errorf("%s: another input has the commitment too", d.ID)
		}
		if digest := statement.Digest(e.Input); bytes.Contains(leaf.Body, digest[:]) {
			t.Errorf("%s: a digest that can be guessed", d.ID)
		}
	}
	all := f.everywhere(t)
	for _, word := range []string{`"request"`, "no " + secret, `\"customer\"`, `"path":["` + secret} {
		if strings.Contains(all, word) {
			t.Errorf("%s is in the folder", word)
		}
	}
	if !strings.Contains(all, `"sealed":{`) || !strings.Contains(all, `"rule":"closed"`) {
		t.Error("the rest of the events is not there")
	}
}

// Erased: what is left says by whom and when, verifies, and cannot be asked again. A copy elsewhere is as
// unreadable as one without keys.
func TestErased(t *testing.T) {
	f := newSealing(t)
	f.log.Record(secretive(1, policy.Connect))
	f.log.Record(secretive(2, policy.Replicate, "customer", "ops"))
	if err := f.log.Rotate(); err != nil {
		t.Fatal(err)
	}
	f.log.Record(secretive(3, policy.Replicate, "ops"))
	elsewhere := filepath.Join(t.TempDir(), DirName)
	if err := os.CopyFS(elsewhere, os.DirFS(f.log.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	for e, err := range Read(elsewhere) {
		if err != nil || e.Sealed == nil || e.Replayable() || !strings.Contains(e.Result.Reason, "key is not here") || e.RequestedBy != "" {
			t.Errorf("a copy: %+v, %v", e, err)
		}
	}
	f.erase(t, payload.Order{Class: "customer"})
	is := func(id int, erased bool) {
		t.Helper()
		e, err := f.log.Get(fmt.Sprintf("%032x", id))
		if err != nil || (e.Erasure != nil) != erased || e.Replayable() == erased || strings.Contains(fmt.Sprint(e.Result, e.RequestedBy, string(e.Input)), secret) == erased ||
			strings.HasPrefix(e.Result.Reason, "erased on ") != erased || e.Result.Rule != "closed" {
			t.Errorf("%d: %+v, %v", id, e, err)
		}
	}
	is(1, false)
	is(2, true)
	is(3, false)
	f.erase(t, payload.Order{Subject: "spiffe://east.dev.example/workload/" + secret})
	is(1, true)
	is(3, true)
	f.log.Record(secretive(4, policy.Connect))
	is(4, false)
	if err := f.log.Rotate(); err != nil {
		t.Fatal(err)
	}
	is(3, true)
	is(4, false)
	segments, _ := told(t, f.s)
	if r, err := Verify(f.log.cfg.Dir, segments); err != nil || !r.Good() || r.Events != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	n := 0
	for e, err := range Read(f.dir) {
		if n++; err != nil || (e.Erasure != nil) != (n < 4) {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

// What cannot be sealed is not written: an allow is denied, a denial counted.
func TestNoKeyNoRecord(t *testing.T) {
	f := newSealing(t)
	dir := filepath.Join(f.dir, payload.DirName)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	missed := uint64(0)
	f.log.cfg.Gap = func(n uint64, _ string) { missed += n }
	d := secretive(1, policy.Connect)
	d.Allow = true
	if got := f.log.Record(d); got.Allow || got.Rule != RuleNotRecorded {
		t.Errorf("%+v", got)
	}
	f.log.Record(secretive(2, policy.Connect))
	if missed != 1 || len(leaves(t, f.s, "decision.deny")) != 0 || strings.Contains(f.everywhere(t), secret) {
		t.Errorf("%d missed", missed)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f.log.Record(secretive(3, policy.Connect))
	if _, err := f.log.Get(fmt.Sprintf("%032x", 3)); err != nil {
		t.Error(err)
	}
}

// Keys go when no segment of their day, and of two days before, is left.
func TestKeysGoWithSegments(t *testing.T) {
	f := newSealing(t)
	f.log.cfg.MaxBytes = 4096
	old, err := f.keys.Seal(payload.Scope{}, time.Now().Add(-4*24*time.Hour), "old", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := f.keys.Open(old, "old"); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		f.log.Record(secretive(i, policy.Connect))
		if err := f.log.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.keys.Open(old, "old"); !errors.Is(err, payload.ErrNoKey) {
		t.Errorf("after the first segment went: %v", err)
	}
	if e, err := f.log.Get(fmt.Sprintf("%032x", 1)); err != nil || len(e.Input) == 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

// Logs of a version that sealed nothing read on, also mixed with sealed events.
func TestOlderEventsRead(t *testing.T) {
	f := newSealing(t)
	f.log.cfg.Keys = nil
	f.log.Record(secretive(1, policy.Connect))
	f.log.cfg.Keys = f.keys
	f.log.Record(secretive(2, policy.Connect))
	if err := f.log.Rotate(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range Read(f.dir) {
		if n++; err != nil || !strings.Contains(string(e.Input), secret) || e.Sealed != nil {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if n != 2 {
		t.Errorf("%d events", n)
	}
}
