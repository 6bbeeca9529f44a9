package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// together runs the updates so that they share one group, in order: the disk is
// held until all of them ran.
func together(s *Store, fns ...func(*Tx) error) []error {
	errs := make([]error, len(fns))
	s.disk <- struct{}{}
	var wg sync.WaitGroup
	for i, fn := range fns {
		ran := make(chan struct{})
		wg.Go(func() {
			errs[i] = errors.New("panicked")
			defer func() { _ = recover() }()
			errs[i] = s.Update(func(tx *Tx) error {
				close(ran)
				return fn(tx)
			})
		})
		<-ran
		s.waitForFunction()
	}
	<-s.disk
	wg.Wait()
	return errs
}

// waitForFunction returns when the function that runs, if any, has ended.
func (s *Store) waitForFunction() {
	s.mu.Lock()
	defer s.mu.Unlock()
}

func TestUpdatesShareACommit(t *testing.T) {
	commits := 0
	s, err := OpenFaulty(filepath.Join(t.TempDir(), "state.db"), func(op int) Fault { commits = op; return NoFault })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fns := make([]func(*Tx) error, maxGroup)
	for i := range fns {
		fns[i] = put("k", fmt.Sprint(i+1))
	}
	if err := errors.Join(together(s, fns...)...); err != nil {
		t.Fatal(err)
	}
	if got, want := shown(t, s), fmt.Sprintf("%d %d", maxGroup, maxGroup); got != want || commits != 1 {
		t.Errorf("%s after %d commits, want %s after 1", got, commits, want)
	}
	select {
	case <-s.Wake():
	default:
		t.Error("the outbox's reader was not woken")
	}
}

// What one refuses, or panics over, leaves no trace, and the others stand.
func TestRefusedUpdateTakesNobodyDown(t *testing.T) {
	refused := errors.New("refused")
	mess := func(end func() error) func(*Tx) error {
		return func(tx *Tx) error {
			return errors.Join(
				put("k", "lost")(tx), put("new", "lost")(tx), put("k", "lost again")(tx),
				tx.Delete("test/kv", []byte("gone")), tx.Put("test/kv", []byte("gone"), []byte("back")),
				tx.Delete("test/kv", []byte("kept")), tx.Put("test/mine", []byte("x"), nil),
				tx.Put("test/kv", nil, nil), // fails
				end(),
			)
		}
	}
	for name, end := range map[string]func() error{
		"error": func() error { return refused },
		"panic": func() error { panic(refused) },
		"exit":  func() error { runtime.Goexit(); return nil },
	} {
		for at := range 3 {
			path := filepath.Join(t.TempDir(), "state.db")
			s := open(t, path)
			err := s.Update(func(tx *Tx) error {
				return errors.Join(put("kept", "kept")(tx), put("gone", "1")(tx), put("k", "0")(tx))
			})
			if err != nil {
				t.Fatal(err)
			}
			fns := []func(*Tx) error{put("k", "1"), func(tx *Tx) error {
				if got := tx.Get("test/kv", []byte("k")); len(got) != 1 {
					return fmt.Errorf("saw %q", got)
				}
				return put("k", "2")(tx)
			}}
			errs := together(s, slices.Insert(fns, at, mess(end))...)
			if errs[at] == nil || name == "error" && !errors.Is(errs[at], refused) {
				t.Errorf("%s at %d: got %v", name, at, errs[at])
			}
			if err := errors.Join(slices.Delete(errs, at, at+1)...); err != nil {
				t.Errorf("%s at %d: the others: %v", name, at, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, path)
			if got := shown(t, s); got != "2 5" {
				t.Errorf("%s at %d: %s, want 2 5", name, at, got)
			}
			entries, err := s.Outbox(0, 10)
			if err != nil || len(entries) != 5 || entries[4].Seq != 5 {
				t.Errorf("%s at %d: the outbox has a gap: %+v %v", name, at, entries, err)
			}
			_ = s.View(func(tx *Tx) error {
				all := ""
				tx.Range("test/kv", nil, func(k, v []byte) bool { all += fmt.Sprintf("%s=%s ", k, v); return true })
				if all != "gone=1 k=2 kept=kept " || tx.Get("test/mine", []byte("x")) != nil {
					t.Errorf("%s at %d: left %s", name, at, all)
				}
				return nil
			})
		}
	}
}

// A refusal may rest on a change that a failed commit took away.
func TestFailedCommitFailsAll(t *testing.T) {
	for _, tt := range []struct {
		fault Fault
		want  string
	}{{FaultBefore, " 0"}, {FaultAfter, "3 2"}} {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := OpenFaulty(path, func(int) Fault { return tt.fault })
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range together(s, put("k", "1"), func(*Tx) error { return errors.New("refused") }, put("k", "3")) {
			if !errors.Is(err, errInjected) {
				t.Errorf("fault %d, update %d: got %v, want the commit's error", tt.fault, i, err)
			}
		}
		if err := s.Update(put("k", "4")); !errors.Is(err, ErrBroken) {
			t.Errorf("after a failed commit: got %v, want %v", err, ErrBroken)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, open(t, path)); got != tt.want {
			t.Errorf("fault %d, after restart: %s, want %s", tt.fault, got, tt.want)
		}
	}
}

// Many writers count in one bucket; one in three refuses after it counted.
func TestWritersAtOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	const writers, each = 16, 30
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := s.Update(func(tx *Tx) error {
					var n uint64
					if v := tx.Get("test/kv", []byte("n")); v != nil {
						n = binary.BigEndian.Uint64(v)
					}
					n++
					if err := errors.Join(tx.Put("test/kv", []byte("n"), binary.BigEndian.AppendUint64(nil, n)), tx.Leaf("test.n", binary.BigEndian.AppendUint64(nil, n))); err != nil {
						return err
					}
					if i%3 == 2 {
						return errors.New("refused")
					}
					return nil
				})
				if (err != nil) != (i%3 == 2) {
					t.Errorf("writer %d, update %d: %v", w, i, err)
				}
			}
		})
	}
	wg.Wait()
	entries, err := s.Outbox(0, writers*each)
	if err != nil || len(entries) != writers*each*2/3 {
		t.Fatalf("%d leaves: %v", len(entries), err)
	}
	for i, e := range entries {
		if want := uint64(i + 1); e.Seq != want || !bytes.Equal(e.Body, binary.BigEndian.AppendUint64(nil, want)) {
			t.Fatalf("leaf %d: sequence %d, body %x", i, e.Seq, e.Body)
		}
	}
}
