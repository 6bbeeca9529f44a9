package index_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/index"
)

var self = spiffeid.RequireFromString("spiffe://east.dev.example/node/n1")

// written makes a trail with n leaves in a folder, and returns what adds more.
func written(t testing.TB, state string, n int) (dir string, more func(n int)) {
	t.Helper()
	st, err := store.Open(filepath.Join(state, "state.db"))
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	dir = filepath.Join(state, "trail")
	tr, err := trail.Open(trail.Config{Dir: dir, Node: self, Epoch: 1, Key: key, Store: st, Every: time.Hour})
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(tr.Close(), st.Close())) })
	next := 0
	more = func(n int) {
		for end := next + n; next < end; {
			must(t, st.Update(func(tx *store.Tx) error {
				for range min(end-next, 1000) {
					kind, body := trail.StateIn, map[string]any{"origin": origin(next % 100), "epoch": 1, "last": next, "records": 1, "ops": 1, "record": digest(next)}
					switch {
					case next%10 == 0:
						kind, body = trail.PeerStanding, map[string]any{"id": origin(next % 100), "from": "ok", "to": "held", "reason": "flooding"}
					case next%10 < 4:
						kind, body = trail.DecisionDeny, map[string]any{"id": fmt.Sprintf("%x", digest(next)[16:]), "rule": rule(next), "source": origin(next % 7), "target": "charts", "revision": "global@1#00"}
					case next%10 == 4:
						kind, body = trail.StateOut, map[string]any{"epoch": 1, "seq": next, "ops": 1, "record": digest(next)}
					case next%10_000 == 55:
						kind, body = trail.PolicyActivate, map[string]any{"revision": "global@1#00"}
					}
					if err := trail.Append(tx, kind, body); err != nil {
						return err
					}
					next++
				}
				return nil
			}))
			if next%20_000 == 0 || next == end { // fewer than trail.MaxWaiting
				must(t, tr.Flush(t.Context()))
			}
		}
	}
	more(n)
	return dir, more
}

func origin(n int) string { return fmt.Sprintf("spiffe://east.dev.example/node/edge-%d", n) }

func rule(n int) string { return fmt.Sprintf("rule-%d", n%3) }

func digest(n int) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 24), uint64(n)*0x9e3779b97f4a7c15)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t testing.TB, path string) *index.Index {
	t.Helper()
	x, err := index.Open(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { must(t, x.Close()) })
	return x
}

// The index finds what reading the whole trail finds: at first, after more has come, after the
// trail was exchanged for another, and after the file was deleted.
func TestIndexIsNoOtherAnswer(t *testing.T) {
	t.Parallel()
	dir, more := written(t, t.TempDir(), 1200)
	path := filepath.Join(t.TempDir(), "audit.db")
	x := opened(t, path)
	same := func(when string, x *index.Index, dir string) {
		t.Helper()
		must(t, x.Update(t.Context(), []string{dir}))
		for _, f := range []audit.Filter{
			{}, {Kinds: []string{"peer"}}, {Kinds: []string{"peer", "genesis"}, Text: "HELD"}, {Kinds: []string{"pee"}}, {Subject: origin(7)},
			{Subject: origin(10), Kinds: []string{"peer.standing"}}, {Subject: fmt.Sprintf("%x", digest(3))[:60]}, {Subject: "spiffe://east.dev.example/node/edge"},
			{Subject: origin(10), Kinds: []string{"peer", "state"}, Newest: 5}, {Newest: 7}, {Kinds: []string{"state.in"}, Newest: 3, Text: origin(5) + ","},
			{Kinds: []string{"decision"}, Subject: "charts", FirstDenials: true}, {FirstDenials: true, Subject: "charts", To: time.Now().Add(time.Hour)},
			{Kinds: []string{"state.in"}, Newest: 40, Keep: func(f fact.Fact) bool { return f.Index%3 == 0 }},
			{From: time.Now().Add(time.Hour)}, {To: time.Now().Add(time.Hour), Subject: origin(1)},
		} {
			want, err := audit.Scan(t.Context(), []string{dir}, f)
			must(t, err)
			got, err := x.Find(t.Context(), []string{dir}, f)
			must(t, err)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v: %d facts, want %d", when, f, len(got), len(want))
			}
		}
	}
	sameAnswers := func(x *index.Index) {
		t.Helper()
		later, dirs := time.Now().Add(time.Hour), []string{dir}
		for name, ask := range questions(t, dirs, later) {
			want, wantErr := ask(audit.Scan)
			got, err := ask(x.Find)
			if !reflect.DeepEqual(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("%s: %d lines, want %d; %v, want %v", name, len(got), len(want), err, wantErr)
			}
			if len(want) == 0 && name != "held" {
				t.Errorf("%s: no answer: %v", name, wantErr)
			}
		}
	}
	same("at first", x, dir)
	sameAnswers(x)
	more(300)
	same("after more", x, dir)
	other, _ := written(t, t.TempDir(), 400)
	same("another trail of that name", x, other)
	same("and back", x, dir)
	anew := opened(t, filepath.Join(t.TempDir(), "another.db"))
	same("made anew", anew, dir)
	sameAnswers(anew)
	old := filepath.Join(t.TempDir(), "old.db")
	db, err := sql.Open("sqlite", old)
	must(t, err)
	_, err = db.Exec("CREATE TABLE trail (id INTEGER PRIMARY KEY, origin TEXT); CREATE TABLE leaf (trail INTEGER, idx INTEGER); CREATE TABLE name (name TEXT); INSERT INTO name VALUES ('x'); PRAGMA user_version = 2")
	must(t, errors.Join(err, db.Close()))
	same("of an older version", opened(t, old), dir)
}

// questions are those of trail ask, to a finder.
func questions(t testing.TB, dirs []string, now time.Time) map[string]func(audit.Finder) ([]audit.Answer, error) {
	ctx, never := t.Context(), time.Time{}
	return map[string]func(audit.Finder) ([]audit.Answer, error){
		"who-could": func(f audit.Finder) ([]audit.Answer, error) { return audit.WhoCould(ctx, f, dirs, "charts", now) },
		"decided": func(f audit.Finder) ([]audit.Answer, error) {
			return audit.Decided(ctx, f, dirs, fmt.Sprintf("%x", digest(773)[16:]))
		},
		"claims": func(f audit.Finder) ([]audit.Answer, error) {
			return audit.Claims(ctx, f, dirs, origin(35), never, now, 201)
		},
		"claims, own": func(f audit.Finder) ([]audit.Answer, error) {
			return audit.Claims(ctx, f, dirs, self.String(), never, now, 201)
		},
		"claims, whole": func(f audit.Finder) ([]audit.Answer, error) {
			return audit.Claims(ctx, f, dirs, origin(35), never, now, 0)
		},
		"changed": func(f audit.Finder) ([]audit.Answer, error) {
			return audit.Changed(ctx, f, dirs, "east.dev.example", never, now, 20)
		},
		"held": func(f audit.Finder) ([]audit.Answer, error) { return audit.Held(ctx, f, dirs, "customer", never, now) },
	}
}

func TestNoIndex(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.db")
	must(t, os.WriteFile(path, []byte("this is no database, and long enough to be looked at as one, with a page"), 0o600))
	if _, err := index.Open(t.Context(), path); !errors.Is(err, index.ErrIndex) {
		t.Errorf("%v", err)
	}
}

// BenchmarkQuestions asks each question of trail ask of a trail with a million leaves, and proves the answer,
// as the command does it.
func BenchmarkQuestions(b *testing.B) {
	dir, _ := written(b, b.TempDir(), 1_000_000)
	dirs := []string{dir}
	x := opened(b, filepath.Join(b.TempDir(), "audit.db"))
	began := time.Now()
	must(b, x.Update(b.Context(), dirs))
	b.Logf("indexed in %s", time.Since(began))
	b.Run("up to date", func(b *testing.B) {
		for b.Loop() {
			must(b, x.Update(b.Context(), dirs))
		}
	})
	for name, ask := range questions(b, dirs, time.Now().Add(time.Hour)) {
		if name == "claims, whole" {
			continue // as many lines as there are leaves
		}
		b.Run(name, func(b *testing.B) {
			lines := 0
			for b.Loop() {
				found, err := ask(x.Find)
				if err != nil && !errors.Is(err, audit.ErrNoLeaf) {
					b.Fatal(err)
				}
				must(b, audit.Prove(b.Context(), dirs, found))
				lines = len(found)
			}
			b.ReportMetric(float64(lines), "lines")
		})
	}
}
