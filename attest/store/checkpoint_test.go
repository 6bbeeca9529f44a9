package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
)

// inBase is what the database itself holds under "k", without the journal.
func inBase(t *testing.T, s *Store) (v string) {
	t.Helper()
	err := s.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte("test/kv")); b != nil {
			v = string(b.Get([]byte("k")))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestIdleStoreIsAbsorbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "state.db"))
		for i := range 3 {
			want := fmt.Sprint(i)
			if err := s.Update(put("k", want)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(absorbAfter - time.Second)
			if got := inBase(t, s); got == want {
				t.Error("absorbed early")
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			s.absorbing.Lock()
			st := *s.published.Load()
			s.absorbing.Unlock()
			if got := inBase(t, s); got != want || st.recent != nil || st.older != nil || st.leaves != nil {
				t.Errorf("after %v the database holds %q, memory %+v", absorbAfter, got, st)
			}
			if got := shown(t, s); got != fmt.Sprintf("%s %d", want, i+1) {
				t.Errorf("readers see %s", got)
			}
		}
	})
}

// Writers go on while a checkpoint runs, and wait only where both places are full.
func TestWritersPassACheckpoint(t *testing.T) {
	hold := make(chan struct{})
	var held bool
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := openWith(path, testPlace, createFile, func(at step) Fault {
		if at == stepCheckpoint && !held {
			held = true
			<-hold
		}
		return NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	const blocks = testPlace / blockSize
	for i := range 2 * blocks {
		if err := s.Update(put("k", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := inBase(t, s); got != "" {
		t.Errorf("the checkpoint was not held: %s", got)
	}
	last := make(chan error)
	go func() { last <- s.Update(put("k", "last")) }()
	for writing := false; !writing; runtime.Gosched() {
		s.mu.Lock()
		writing = s.writing != nil
		s.mu.Unlock()
	}
	select {
	case err := <-last:
		t.Errorf("written over a generation that is not absorbed: %v", err)
	default:
	}
	if got, want := shown(t, s), fmt.Sprint(2*blocks-1, " ", 2*blocks); got != want {
		t.Errorf("readers see %s, want %s", got, want)
	}
	close(hold)
	if err := <-last; err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := shown(t, open(t, path)), fmt.Sprint("last ", 2*blocks+1); got != want {
		t.Errorf("after a restart: %s, want %s", got, want)
	}
}

// A reader that is overtaken by two checkpoints, after it took what is in memory
// and before it took the database, starts again.
func TestReaderIsOvertaken(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	step := 0
	both := func(tx *Tx) error {
		step++
		return errors.Join(put("k", fmt.Sprint(step))(tx), put(fmt.Sprint("only", step%2), fmt.Sprint(step))(tx))
	}
	if err := s.Update(both); err != nil {
		t.Fatal(err)
	}
	tries := 0
	tx, err := s.moment(func(bool) (*bolt.Tx, error) {
		if tries++; tries == 1 {
			for range 2 {
				if err := s.Update(both); err != nil {
					t.Fatal(err)
				}
				s.disk <- struct{}{}
				err := s.settle()
				<-s.disk
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		return s.db.Begin(false)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.end()
	if k, only := tx.Get("test/kv", []byte("k")), tx.Get("test/kv", []byte("only1")); string(k) != "3" || string(only) != "3" || tries != 2 {
		t.Errorf("k is %s, only1 %s after %d tries", k, only, tries)
	}
}

// Changes that went past the journal are a history of their own too: another
// copy's journal does not continue it.
func TestForkPastTheJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	if err := errors.Join(s.Update(put("k", "common")), s.Close()); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "b.db")
	copyFile(t, path, other)
	for _, p := range []string{path, other} {
		s := open(t, p)
		large := func(tx *Tx) error { return tx.Put("test/kv", []byte("k"), append(make([]byte, journalPlace), p...)) }
		if err := errors.Join(s.Update(large), s.Update(put("after", "1"))); err != nil {
			t.Fatal(err)
		}
		copyFile(t, p, p+".crashed") // before Close takes the journal away
		copyFile(t, p+journalSuffix, p+".crashed"+journalSuffix)
	}
	mixed := filepath.Join(t.TempDir(), "mixed.db")
	copyFile(t, path+".crashed", mixed)
	copyFile(t, other+".crashed"+journalSuffix, mixed+journalSuffix)
	if _, err := Open(mixed); !errors.Is(err, ErrJournal) {
		t.Errorf("another copy's journal: got %v, want %v", err, ErrJournal)
	}
	if got := shown(t, open(t, path+".crashed")); got[len(got)-6:] != "a.db 2" {
		t.Errorf("its own journal: %s", got[len(got)-6:])
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err := errors.Join(err, os.WriteFile(to, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// full is a disk without room from one write on.
type full struct {
	file
	writes *int // left
}

func (f full) WriteAt(b []byte, at int64) (int, error) {
	if *f.writes--; *f.writes < 0 {
		n, _ := f.file.WriteAt(b[:min(len(b), 60)], at) // a frame without its end
		return n, syscall.ENOSPC
	}
	return f.file.WriteAt(b, at)
}

// Whichever step finds the disk full and does not say that it wrote nothing: what was
// acknowledged is there after a restart, and until then nothing more is taken.
func TestFullDisk(t *testing.T) {
	for writes := range 40 { // header, zeros, frames, of two places
		path := filepath.Join(t.TempDir(), "state.db")
		left := writes
		s, err := openWith(path, testPlace, func(path string) (file, error) {
			f, err := createFile(path)
			return full{f, &left}, err
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		refusedAt(t, s, path, writes)
	}
	checkpoints := 0
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := openWith(path, testPlace, createFile, func(at step) Fault {
		if at == stepCheckpoint {
			if checkpoints++; checkpoints == 2 {
				return FaultBefore
			}
		}
		return NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	refusedAt(t, s, path, -1)
}

func refusedAt(t *testing.T, s *Store, path string, writes int) {
	t.Helper()
	acked := 0
	var err error
	for acked < 1000 {
		if err = s.Update(put("k", fmt.Sprint(acked+1))); err != nil {
			break
		}
		acked++
	}
	if writes >= 0 && !errors.Is(err, ErrFull) || writes < 0 && !errors.Is(err, errInjected) {
		t.Errorf("write %d: got %v", writes, err)
	}
	want := fmt.Sprint(acked, " ", acked)
	if acked == 0 {
		want = " 0"
	}
	if got := shown(t, s); got != want {
		t.Errorf("write %d: readers see %s, want %s", writes, got, want)
	}
	if again := s.Update(put("k", "more")); !errors.Is(again, ErrBroken) || writes >= 0 && !errors.Is(again, ErrFull) {
		t.Errorf("write %d, again: got %v, want %v and its cause", writes, again, ErrBroken)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s = open(t, path)
	if got := shown(t, s); got != want {
		t.Errorf("write %d, after a restart: %s, want %s", writes, got, want)
	}
	if err := errors.Join(s.Update(put("k", "more")), s.Close()); err != nil {
		t.Error(err)
	}
}
