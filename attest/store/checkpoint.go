package store

import (
	"crypto/rand"
	"time"

	bolt "go.etcd.io/bbolt"
)

// absorbAfter is how long a change may stay in the journal and in memory when
// nothing else calls for a checkpoint. Longer saves writes of the database's
// pages; it costs no durability.
const absorbAfter = 10 * time.Second

// checkpoint is one that found no room: a published state, and the mark that says so.
type checkpoint struct {
	whole state
	mark  mark
	why   error
	at    time.Time // of the last try
}

// fullPause is how long a checkpoint that found no room is not tried again: it is much work.
const fullPause = time.Second

// commit makes a group durable. Like all that writes, it runs with disk held.
func (s *Store) commit(g *group) error {
	if len(g.changes) == 0 {
		return nil
	}
	fault := s.fault(stepCommit)
	if err := fault.before(); err != nil {
		return system(err)
	}
	if err := s.write(g); err != nil {
		return system(err)
	}
	if fault == FaultAfter {
		return errInjected
	}
	return nil
}

func (s *Store) write(g *group) error {
	size := (frameHead + g.bytes + blockSize - 1) &^ (blockSize - 1) // at most
	if size > s.journal.place {
		return s.bypass(g)
	}
	if !s.journal.fits(size) {
		if err := s.handOver(); err != nil {
			return err
		}
	}
	if err := s.journal.append(g.changes); err != nil {
		return err
	}
	if s.journal.index == 1 {
		generation := s.journal.at.generation
		time.AfterFunc(absorbAfter, func() { s.absorbOld(generation) })
	}
	return nil
}

// absorbOld begins a checkpoint of a generation, unless it has had one.
func (s *Store) absorbOld(generation uint64) {
	s.disk <- struct{}{}
	defer func() { <-s.disk }()
	if s.journal.at.generation == generation && passing(s.handOver()) { // the next update tells of another failure
		time.AfterFunc(absorbAfter, func() { s.absorbOld(generation) })
	}
}

// handOver begins the next generation and, behind it, the checkpoint of this one.
// It waits for the checkpoint before. A generation has at least one frame.
func (s *Store) handOver() error {
	if s.journal.index == 0 {
		return nil
	}
	s.absorbing.Lock()
	if err := s.catchUp(); err != nil {
		s.absorbing.Unlock()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	whole, m := *s.published.Load(), s.journal.at
	s.journal.next()
	p := whole
	p.generation, p.recent, p.older = p.generation+1, nil, p.recent
	s.rebase(p)
	go s.checkpoint(whole, m)
	return nil
}

// rebase publishes a state that has the same content in other layers, and lays
// what is not durable yet over it; mu is held.
func (s *Store) rebase(p state) {
	s.published.Store(&p)
	tip := p
	for _, g := range []*group{s.writing, s.next} {
		if g == nil {
			continue
		}
		for _, c := range g.changes {
			tip.apply(c)
		}
		g.after = tip
	}
}

// checkpoint brings the database to a published state, and releases absorbing.
func (s *Store) checkpoint(whole state, m mark) {
	defer s.absorbing.Unlock()
	_ = s.bring(whole, m) // whoever needs its place next tells of its failure
}

// catchUp does what a full disk kept the last checkpoint from; absorbing is held.
func (s *Store) catchUp() error {
	if o := s.owed; o != nil {
		if time.Since(o.at) < fullPause {
			return o.why
		}
		return s.bring(o.whole, o.mark)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken()
}

// bring is one try of a checkpoint; absorbing is held.
func (s *Store) bring(whole state, m mark) error {
	err := s.absorb(whole, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case passing(err):
		s.owed = &checkpoint{whole, m, err, time.Now()} // it is in the journal, and in memory
		return err
	case err != nil:
		if s.failure == nil {
			s.failure = err
		}
		return err
	}
	s.owed = nil
	p := *s.published.Load()
	p.settled(whole.seq)
	s.published.Store(&p)
	for _, g := range []*group{s.writing, s.next} {
		if g != nil {
			g.after.settled(whole.seq)
		}
	}
	return nil
}

func (s *Store) absorb(whole state, m mark) (err error) {
	defer catch(&err)
	fault := s.fault(stepCheckpoint)
	if err := fault.before(); err != nil {
		return system(err)
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return whole.absorb(tx, m) }); err != nil {
		return system(err)
	}
	if fault == FaultAfter {
		return errInjected
	}
	return nil
}

// settle returns when the database has absorbed all that is published.
func (s *Store) settle() error {
	if err := s.handOver(); err != nil {
		return err
	}
	s.absorbing.Lock() // waits for it
	defer s.absorbing.Unlock()
	return s.catchUp()
}

// bypass commits a group that is larger than a generation's place straight into
// the database. Readers see it there at once, so nothing may lie over it.
func (s *Store) bypass(g *group) error {
	if err := s.settle(); err != nil {
		return err
	}
	s.mu.Lock()
	whole, m := g.after, s.journal.at
	s.mu.Unlock()
	rand.Read(m.last[:]) // a journal that goes on without this group must not fit
	if err := s.absorb(whole, m); err != nil {
		return err
	}
	s.journal.at.last = m.last
	s.journal.next()
	s.mu.Lock()
	defer s.mu.Unlock()
	g.changes = nil // they are in the database
	p := whole
	p.generation, p.recent, p.leaves = p.generation+1, nil, nil
	s.rebase(p)
	return nil
}
