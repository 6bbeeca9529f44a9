package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A commit that finds no room is refused whole, says why, and the next one that finds some is made.
func TestFullPasses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	full := false
	s, err := OpenFaulty(path, func(int) Fault {
		if full {
			return FaultFull
		}
		return NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		was := shown(t, s)
		full = true
		for range 2 {
			if err := s.Update(put("k", "refused")); !errors.Is(err, ErrFull) || errors.Is(err, ErrBroken) || !errors.Is(s.Err(), ErrFull) {
				t.Fatalf("on a full disk: %v, then %v", err, s.Err())
			}
		}
		if got := shown(t, s); got != was {
			t.Fatalf("a refused update is seen: %s, was %s", got, was)
		}
		full = false
		if err := s.Update(put("k", fmt.Sprint(round))); err != nil || s.Err() != nil {
			t.Fatalf("with room again: %v, %v", err, s.Err())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, open(t, path)); got != "2 3" {
		t.Errorf("after a restart: %s", got)
	}
}

// Who ran on top of an update that found no room fails with it.
func TestFullTakesItsFollowersAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		s, err := OpenFaulty(filepath.Join(t.TempDir(), "state.db"), func(int) Fault {
			if !first {
				return NoFault
			}
			first = false
			time.Sleep(time.Second)
			return FaultFull
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		errs := make(chan error, 2)
		go func() { errs <- s.Update(put("k", "one")) }()
		synctest.Wait()
		go func() {
			errs <- s.Update(func(tx *Tx) error {
				if got := string(tx.Get("test/kv", []byte("k"))); got != "one" {
					t.Errorf("it ran on %q", got)
				}
				return put("k", "two")(tx)
			})
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		for range 2 {
			if err := <-errs; !errors.Is(err, ErrFull) {
				t.Errorf("not refused: %v", err)
			}
		}
		if err := s.Update(func(tx *Tx) error {
			if got := tx.Get("test/kv", []byte("k")); got != nil {
				t.Errorf("an update runs on what was refused: %q", got)
			}
			return put("k", "three")(tx)
		}); err != nil {
			t.Error(err)
		}
		if got := shown(t, s); got != "three 1" {
			t.Errorf("readers see %s", got)
		}
	})
}

// A checkpoint that finds no room refuses nobody until its place is needed, and is made later.
func TestFullCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		var full atomic.Bool
		faults := func(at step) Fault {
			if full.Load() && at == stepCheckpoint {
				return FaultFull
			}
			return NoFault
		}
		full.Store(true)
		s, err := openWith(path, testPlace, createFile, faults)
		if err != nil {
			t.Fatal(err)
		}
		const blocks = testPlace / blockSize
		for i := range 2 * blocks {
			if err := s.Update(put("k", fmt.Sprint(i))); err != nil {
				t.Fatalf("update %d: %v", i, err)
			}
			synctest.Wait()
		}
		for range 3 {
			if err := s.Update(put("k", "refused")); !errors.Is(err, ErrFull) {
				t.Fatalf("both places are full: %v", err)
			}
			time.Sleep(2 * fullPause)
		}
		time.Sleep(3 * absorbAfter)
		synctest.Wait()
		if got, want := shown(t, s), fmt.Sprint(2*blocks-1, " ", 2*blocks); got != want {
			t.Errorf("readers see %s, want %s", got, want)
		}
		if got := inBase(t, s); got != "" {
			t.Errorf("the database took %q", got)
		}
		if err := s.Close(); err != nil {
			t.Errorf("closed with a journal: %v", err)
		}
		full.Store(false)
		s, err = openWith(path, testPlace, createFile, faults)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := shown(t, s), fmt.Sprint(2*blocks-1, " ", 2*blocks); got != want {
			t.Errorf("after a restart: %s, want %s", got, want)
		}
		full.Store(true)
		if err := s.Update(put("k", "more")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * absorbAfter)
		full.Store(false)
		if err := s.Update(put("k", "most")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * absorbAfter)
		synctest.Wait()
		if got := inBase(t, s); got != "most" {
			t.Errorf("with room the database took %q", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Several writers on a disk that is full now and then, at any step: each finds what it was promised
// and nothing that was refused, while the store runs and after a restart.
func TestFullNowAndThen(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 3))
	path := filepath.Join(t.TempDir(), "state.db")
	writers := make([]*history, 4)
	for i := range writers {
		writers[i] = &history{name: fmt.Sprint("w", i), states: []map[string]string{nil}}
	}
	refused := 0
	for round := range 12 {
		d := &narrow{rng: rand.New(rand.NewPCG(rng.Uint64(), 0))}
		s, err := openWith(path, testPlace, d.create, d.fault)
		if err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatalf("round %d: %v", round, err)
			}
			continue
		}
		var wg sync.WaitGroup
		for _, h := range writers {
			mine := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() {
				for range 60 {
					err := h.attempt(s, mine)
					if errors.Is(err, ErrFull) {
						h.states = h.states[:len(h.states)-1]
						d.mu.Lock()
						refused++
						d.mu.Unlock()
					} else if err != nil {
						t.Errorf("round %d: %v", round, err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, h := range writers {
			if err := h.check(s); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := checkLeaves(s, writers, 0); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := s.Close(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if t.Failed() {
			return
		}
	}
	if refused < 20 {
		t.Errorf("only %d updates were refused", refused)
	}
}

// narrow is a disk that has no room at random moments, and room for zeros in between.
type narrow struct {
	mu    sync.Mutex
	rng   *rand.Rand
	spare bool // the last write found no room
}

func (d *narrow) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(8) == 0
}

// fullAgain is full, but never twice running.
func (d *narrow) fullAgain() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spare = !d.spare && d.rng.IntN(8) == 0
	return d.spare
}

func (d *narrow) fault(step) Fault {
	if d.full() {
		return FaultFull
	}
	return NoFault
}

func (d *narrow) create(path string) (file, error) {
	if d.full() {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}
	}
	f, err := createFile(path)
	return narrowFile{f, d}, err
}

type narrowFile struct {
	file
	disk *narrow
}

func (f narrowFile) WriteAt(b []byte, at int64) (int, error) {
	if f.disk.fullAgain() {
		n, _ := f.file.WriteAt(b[:len(b)/2], at) // a short write
		return n, &os.PathError{Op: "write", Path: "journal", Err: syscall.ENOSPC}
	}
	return f.file.WriteAt(b, at)
}

// What cannot be taken back may be found by a restart: so the store ends.
func TestFullForGood(t *testing.T) {
	writes := 0
	s, err := openWith(filepath.Join(t.TempDir(), "state.db"), testPlace, func(path string) (file, error) {
		f, err := createFile(path)
		return endingFile{f, &writes}, err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Update(put("k", "v")); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if err := s.Update(put("k", "v")); !errors.Is(err, ErrBroken) || !errors.Is(s.Err(), ErrBroken) {
		t.Errorf("and then %v, %v", err, s.Err())
	}
}

// endingFile has room for the header and the first zeros only.
type endingFile struct {
	file
	writes *int
}

func (f endingFile) WriteAt(b []byte, at int64) (int, error) {
	if *f.writes++; *f.writes > 2 {
		return 0, &os.PathError{Op: "write", Path: "journal", Err: syscall.ENOSPC}
	}
	return f.file.WriteAt(b, at)
}

// A disk that is really full, and has room again while the store is open.
func TestFullDiskFrees(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("TestFullNowAndThen stands for it: only root may mount a small disk")
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatalf("mount a tmpfs of 3m: %v; run the tests as root with CAP_SYS_ADMIN, or as another user", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	fill := func() (n int) {
		for err := error(nil); err == nil && n < 100_000; n++ {
			if err = s.Update(put(fmt.Sprint(n), strings.Repeat("v", 1000))); err != nil && !errors.Is(err, ErrFull) {
				t.Fatalf("update %d: %v", n, err)
			}
		}
		return n - 1
	}
	held := fill()
	if more := fill(); more != 0 {
		t.Errorf("%d more on a full disk", more)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=12m"); err != nil {
		t.Fatal(err)
	}
	more := fill() // both places, and the database has no room to grow
	if more < held {
		t.Errorf("%d updates more with room, %d before", more, held)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(fullPause / 10) {
		if err = s.Update(put("last", "v")); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if err := s.View(func(tx *Tx) error {
		for i := range more {
			if !bytes.Equal(tx.Get("test/kv", fmt.Append(nil, i)), []byte(strings.Repeat("v", 1000))) {
				return fmt.Errorf("update %d of %d is lost", i, more)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
