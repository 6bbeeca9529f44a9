package store

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// A group is full at either bound: they bound how long its first update waits
// for its last.
const (
	maxGroup      = 256
	maxGroupBytes = 1 << 20
)

// group is what several updates commit together. While one is written to disk,
// the functions of the next one run. All but err after done is guarded by
// Store.mu.
type group struct {
	updates int           // so far, refused ones too
	bytes   int           // of changes in the journal, at most
	leaves  bool          // whether there are leaves among them
	changes []*change     // in order
	after   state         // what the last function left
	sealed  chan struct{} // closed when nobody can join any more
	lost    error         // why it cannot be written: it saw what a full disk did not take
	done    chan struct{} // closed when it is durable, or failed
	err     error         // how it ended
}

func (g *group) full() bool { return g.updates >= maxGroup || g.bytes >= maxGroupBytes }

// join takes the lock and returns the group to run in.
func (s *Store) join() (*group, error) {
	for {
		s.mu.Lock()
		if err := s.refusal(); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		if s.next == nil {
			s.next = &group{after: s.tip(), sealed: make(chan struct{}), done: make(chan struct{})}
		}
		g := s.next
		if !g.full() {
			return g, nil
		}
		s.mu.Unlock()
		<-g.sealed
	}
}

// refusal says why no update may run; mu is held.
func (s *Store) refusal() error {
	if s.closed {
		return bolterrors.ErrDatabaseNotOpen
	}
	return s.broken()
}

// broken says whether a step failed; mu is held.
func (s *Store) broken() error {
	if s.failure == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrBroken, s.failure)
}

// refused draws the conclusion from a group that was not written; mu is held. After a
// want of room the next update tries again. Who ran meanwhile saw what is not to be.
func (s *Store) refused(g *group, err error) {
	switch {
	case !passing(err):
		if s.failure == nil {
			s.failure = err
		}
	case g.lost == nil && s.next != nil:
		s.next.lost, s.next = err, nil
	}
}

// tip is the state in which the next function runs; mu is held.
func (s *Store) tip() state {
	switch {
	case s.next != nil:
		return s.next.after
	case s.writing != nil:
		return s.writing.after
	}
	return *s.published.Load()
}

// run applies fn to the group whole, or not at all; mu is held.
func (s *Store) run(g *group, fn func(*Tx) error) (err error) {
	defer catch(&err)
	tx := &Tx{db: s.db, state: g.after, writable: true, now: time.Now(), changes: g.changes}
	defer tx.end()
	g.updates++
	if err := fn(tx); err != nil {
		return err
	}
	if tx.failed != nil {
		return tx.failed
	}
	for _, c := range tx.changes[len(g.changes):] {
		g.bytes += c.size()
		g.leaves = g.leaves || c.op == opLeaf
	}
	g.changes, g.after = tx.changes, tx.state
	return nil
}

// wait returns when the group has ended, and how. Of its members, whoever has
// the disk first writes it for all.
func (s *Store) wait(g *group) error {
	select {
	case <-g.done:
		return g.err
	case s.disk <- struct{}{}:
	}
	defer func() { <-s.disk }()
	select {
	case <-g.done:
		return g.err
	default:
	}
	if s.crowd {
		runtime.Gosched() // whom the last group released may want to come along
	}
	s.mu.Lock()
	s.crowd = g.updates > 1
	err := errors.Join(s.broken(), g.lost)
	if s.next == g {
		s.next = nil
	}
	if err == nil {
		s.writing = g
	}
	close(g.sealed)
	s.mu.Unlock()
	if err == nil {
		err = s.commit(g)
	}
	s.mu.Lock()
	s.writing = nil
	if err == nil {
		after := g.after
		s.published.Store(&after)
	} else {
		s.refused(g, err)
	}
	if g.err = err; err != nil || g.bytes > 0 {
		s.trouble = err
	}
	s.mu.Unlock()
	if err == nil && g.leaves {
		select {
		case s.wake <- struct{}{}:
		default: // the reader is told already
		}
	}
	close(g.done)
	return err
}
