package store

import (
	"encoding/binary"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// maxGroup bounds how many updates share a transaction, and so how long the
// first of them waits for the last.
const maxGroup = 256

// group is one write transaction that several updates share. Each runs in its
// own caller's goroutine while that holds Store.mu; the last one ends the
// transaction for all. All but err after done is guarded by Store.mu.
type group struct {
	tx      *bolt.Tx
	size    int           // updates so far, refused ones too
	applied int           // those of size that are in tx
	leaves  int           // of the applied
	spoiled error         // what could not be undone: tx must not be committed
	done    chan struct{} // closed when tx has ended
	err     error         // how it ended
}

// join takes the lock and returns the transaction to run in.
func (s *Store) join() (*group, error) {
	s.waiting.Add(1)
	s.mu.Lock()
	s.waiting.Add(-1)
	if s.group != nil {
		return s.group, nil
	}
	if s.broken {
		s.mu.Unlock()
		return nil, ErrBroken
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		s.mu.Unlock()
		return nil, system(err)
	}
	s.group = &group{tx: tx, done: make(chan struct{}), err: ErrBroken} // until it is known better
	return s.group, nil
}

// run applies fn to the group whole, or not at all.
func (g *group) run(fn func(*Tx) error) (err error) {
	defer catch(&err)
	tx := &Tx{tx: g.tx, writable: true, now: time.Now()}
	g.size++
	applied := false
	defer func() { // also when fn panics
		if !applied {
			g.undo(tx)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	applied = true
	g.applied++
	g.leaves += tx.leaves
	return nil
}

// leave gives the lock to the next update that waits, or ends the transaction
// where there is none. It returns when the transaction has ended, and how.
func (s *Store) leave(g *group) error {
	if s.waiting.Load() > 0 && g.size < maxGroup && g.spoiled == nil {
		s.mu.Unlock()
		<-g.done
		return g.err
	}
	defer s.mu.Unlock()
	defer close(g.done)
	s.group = nil
	g.err = s.end(g)
	return g.err
}

func (s *Store) end(g *group) (err error) {
	defer catch(&err)
	defer func() { _ = g.tx.Rollback() }() // where it is not committed, whatever happens: bbolt holds a lock until then
	if g.spoiled != nil || g.applied == 0 {
		return g.spoiled
	}
	s.ops++
	fault := NoFault
	if s.faults != nil {
		fault = s.faults(s.ops)
	}
	s.broken = true // unless this succeeds
	if fault == FaultBefore {
		return errInjected
	}
	if err := g.tx.Commit(); err != nil {
		return system(err)
	}
	if fault == FaultAfter {
		return errInjected
	}
	s.broken = false
	if g.leaves > 0 {
		select {
		case s.wake <- struct{}{}:
		default: // the reader is told already
		}
	}
	return nil
}

// write is what undoes one Put, Delete or Leaf.
type write struct {
	bucket   string
	key      []byte
	old      []byte // as bbolt keeps it: valid until the transaction ends
	existed  bool
	sequence bool // also give the bucket's last sequence number back
}

// overwriting notes what undoes a Put or Delete that is about to happen.
func (tx *Tx) overwriting(b *bolt.Bucket, bucket string, key []byte) {
	old := b.Get(key)
	tx.writes = append(tx.writes, write{bucket: bucket, key: slices.Clone(key), old: old, existed: old != nil})
}

// undo takes the writes of a refused update out of the group, last one first.
// Buckets it made stay, empty.
func (g *group) undo(tx *Tx) {
	defer catch(&g.spoiled)
	for _, w := range slices.Backward(tx.writes) {
		if err := w.undo(g.tx); err != nil {
			g.spoiled = err
			return
		}
	}
}

func (w write) undo(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(w.bucket))
	if w.sequence {
		if err := b.SetSequence(binary.BigEndian.Uint64(w.key) - 1); err != nil {
			return err
		}
	}
	if w.existed {
		return b.Put(w.key, w.old)
	}
	return b.Delete(w.key)
}
