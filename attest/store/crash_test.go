package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// power is what a store runs on in these tests. It fails at one durable step,
// before or after that had its effect, and from then on nothing reaches the disk.
// Of what the journal's file was given and was not told to sync, every sector is
// there or not.
type power struct {
	mu               sync.Mutex
	rng              *rand.Rand
	steps            int // until it fails
	off              bool
	made             bool // the journal's file
	durable, written []byte
}

var errPower = errors.New("the power is off")

// step says whether the next durable step has its effect, and whether its caller
// hears of that.
func (p *power) step() (done, told bool) {
	if p.off {
		return false, false
	}
	if p.steps--; p.steps > 0 {
		return true, true
	}
	p.off = true
	return p.rng.IntN(2) == 0, false
}

func (p *power) fault(step) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch done, told := p.step(); {
	case told:
		return NoFault
	case done:
		return FaultAfter
	}
	return FaultBefore
}

func (p *power) create(string) (file, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, told := p.step()
	if done {
		p.made, p.durable, p.written = true, nil, nil
	}
	if !told {
		return nil, errPower
	}
	return p, nil
}

func (p *power) WriteAt(b []byte, at int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, told := p.step()
	if done {
		end := int(at) + len(b)
		if more := end - len(p.written); more > 0 {
			p.written = append(p.written, make([]byte, more)...)
		}
		copy(p.written[at:], b)
	}
	if !told {
		return 0, errPower
	}
	return len(b), nil
}

func (p *power) Sync() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, told := p.step()
	if done {
		p.durable = bytes.Clone(p.written)
	}
	if !told {
		return errPower
	}
	return nil
}

func (p *power) Close() error { return nil }

// leave puts at path what is left of the journal.
func (p *power) leave(path string) error {
	if !p.made {
		return nil
	}
	b := p.durable
	if len(p.written) > len(b) && p.rng.IntN(2) == 0 {
		b = append(b, make([]byte, len(p.written)-len(b))...)
	}
	const sector = 512
	for at := 0; at < len(b); at += sector {
		if end := min(at+sector, len(b)); p.rng.IntN(2) == 0 {
			copy(b[at:end], p.written[at:end])
		}
	}
	return os.WriteFile(path, b, 0o600)
}

// history is what one writer did: state n is after its update n.
type history struct {
	name   string
	acked  int
	states []map[string]string
}

// attempt runs the writer's next update, of random changes to its own keys and a
// leaf that carries its number.
func (h *history) attempt(s *Store, rng *rand.Rand) error {
	n := len(h.states)
	next := map[string]string{"n": fmt.Sprint(n)}
	if n > 0 {
		for k, v := range h.states[n-1] {
			if k != "n" {
				next[k] = v
			}
		}
	}
	refuse := rng.IntN(5) == 0
	err := s.Update(func(tx *Tx) error {
		for range rng.IntN(6) {
			k := fmt.Sprint("k", rng.IntN(20))
			if got := string(tx.Get(h.name, []byte(k))); got != next[k] {
				return fmt.Errorf("%s of %s reads as %.20q, want %.20q", k, h.name, got, next[k])
			}
			if rng.IntN(3) == 0 {
				delete(next, k)
				if err := tx.Delete(h.name, []byte(k)); err != nil {
					return err
				}
				continue
			}
			v := strings.Repeat(fmt.Sprint(n, "."), 1+rng.IntN(300))
			if rng.IntN(40) == 0 {
				v = strings.Repeat("large", testPlace/4) // it goes past the journal
			}
			next[k] = v
			if err := tx.Put(h.name, []byte(k), []byte(v)); err != nil {
				return err
			}
		}
		if err := errors.Join(tx.Leaf(h.name, fmt.Append(nil, n)), tx.Put(h.name, []byte("n"), fmt.Append(nil, n))); err != nil || !refuse {
			return err
		}
		return errRefused
	})
	if errors.Is(err, errRefused) {
		return nil
	}
	h.states = append(h.states, next)
	if err == nil {
		h.acked = n
	}
	return err
}

var errRefused = errors.New("refused")

// check compares what the writer finds with its history, and forgets what was lost.
func (h *history) check(s *Store) error {
	got := map[string]string{}
	err := s.View(func(tx *Tx) error {
		tx.Range(h.name, nil, func(k, v []byte) bool { got[string(k)] = string(v); return true })
		return nil
	})
	if err != nil {
		return err
	}
	n := 0
	if len(got) > 0 {
		if _, err := fmt.Sscan(got["n"], &n); err != nil {
			return err
		}
	}
	if n < h.acked || n >= len(h.states) {
		return fmt.Errorf("%s is at %d, acknowledged %d of %d", h.name, n, h.acked, len(h.states)-1)
	}
	if len(got) > 0 && fmt.Sprint(got) != fmt.Sprint(h.states[n]) {
		return fmt.Errorf("%s at %d is %.200q, want %.200q", h.name, n, got, h.states[n])
	}
	h.states, h.acked = h.states[:n+1], n
	return nil
}

// TestPowerCuts lets several writers work, cuts the power at a random step, of an
// update, a checkpoint or an opening, and compares what a restart finds with what
// they were promised.
func TestPowerCuts(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 50
	}
	rng := rand.New(rand.NewPCG(7, uint64(rounds)))
	path := filepath.Join(t.TempDir(), "state.db")
	writers := make([]*history, 4)
	for i := range writers {
		writers[i] = &history{name: fmt.Sprint("w", i), states: []map[string]string{nil}}
	}
	trimmed := uint64(0)
	for round := range rounds {
		p := &power{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), steps: 1 + rng.IntN(80)}
		s, err := openWith(path, testPlace, p.create, p.fault)
		if err != nil {
			if !p.off || !errors.Is(err, errInjected) {
				t.Fatalf("round %d: %v", round, err)
			}
			continue
		}
		for _, h := range writers {
			if err := h.check(s); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := checkLeaves(s, writers, trimmed); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		var wg sync.WaitGroup
		for _, h := range writers[:1+rng.IntN(len(writers))] {
			mine := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() {
				for i := 0; ; i++ {
					if err := h.attempt(s, mine); err != nil {
						if !errors.Is(err, errPower) && !errors.Is(err, errInjected) {
							t.Errorf("round %d: %v", round, err)
						}
						return
					}
					if i%20 == 19 { // as the timer does
						s.disk <- struct{}{}
						generation := s.journal.at.generation
						<-s.disk
						s.absorbOld(generation)
					}
				}
			})
		}
		if s.Trim(trimmed+uint64(rng.IntN(20))) == nil {
			trimmed = s.published.Load().trimmed
		}
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := p.leave(path + journalSuffix); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

// checkLeaves wants each writer's updates in the outbox once and in order, after
// what was trimmed.
func checkLeaves(s *Store, writers []*history, trimmed uint64) error {
	entries, err := s.Outbox(0, 1<<30)
	if err != nil {
		return err
	}
	if n, err := s.Pending(); err != nil || n != len(entries) {
		return fmt.Errorf("%d leaves wait, and %d are there, %v", n, len(entries), err)
	}
	last := map[string]int{}
	for i, e := range entries {
		if e.Seq <= trimmed || i > 0 && e.Seq != entries[i-1].Seq+1 {
			return fmt.Errorf("leaf %d after %d were trimmed, %d others read", e.Seq, trimmed, i)
		}
		n := 0
		if _, err := fmt.Sscan(string(e.Body), &n); err != nil {
			return err
		}
		if before, ok := last[e.Kind]; ok && n != before+1 {
			return fmt.Errorf("leaf %d: %s has %d after %d", e.Seq, e.Kind, n, before)
		}
		last[e.Kind] = n
	}
	for _, h := range writers {
		if n, ok := last[h.name]; ok && n != len(h.states)-1 {
			return fmt.Errorf("%s is at %d, its last leaf at %d", h.name, len(h.states)-1, n)
		}
	}
	return nil
}

// Readers see one moment, and only what is durable, whatever a checkpoint does.
func TestReadersBesideCheckpoints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := openWith(path, testPlace, createFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for last := uint64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				err := s.View(func(tx *Tx) error {
					a, b := tx.Get("test/a", []byte("n")), tx.Get("test/b", []byte("n"))
					if !bytes.Equal(a, b) {
						return fmt.Errorf("a is %x, b %x", a, b)
					}
					if a == nil {
						return nil
					}
					n := binary.BigEndian.Uint64(a)
					if n < last || n != tx.state.seq {
						return fmt.Errorf("%d after %d, with %d leaves", n, last, tx.state.seq)
					}
					last = n
					k, _ := tx.Last("test/log")
					rows := uint64(0)
					tx.Range("test/log", nil, func(k, _ []byte) bool { rows++; return true })
					if binary.BigEndian.Uint64(k) != n || rows != min(n, 10) {
						return fmt.Errorf("at %d: %d rows to %x", n, rows, k)
					}
					if all, err := tx.outbox(0, 1<<30); err != nil || uint64(len(all)) != n {
						return fmt.Errorf("at %d: %d leaves, %v", n, len(all), err)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range uint64(200) {
		n := sequenceKey(i + 1)
		if err := s.Update(func(tx *Tx) error {
			old := sequenceKey(i - 9)
			return errors.Join(tx.Put("test/a", []byte("n"), n), tx.Put("test/b", []byte("n"), n), tx.Put("test/log", n, make([]byte, 300)),
				tx.Delete("test/log", old), tx.Leaf("test.n", n))
		}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	if got := s.journal.at.generation; got < 10 {
		t.Errorf("only %d generations", got)
	}
}
