package store

import (
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
)

// state is all that changed since the database's last checkpoint, as it was at
// one moment. It is a value: what is published does not change any more.
type state struct {
	generation uint64   // of the journal, in which recent is written
	recent     *node    // changes of that generation
	older      *node    // changes of the one before, while a checkpoint absorbs it
	leaves     [][]byte // the newest leaves: the last of them has the sequence seq
	seq        uint64   // of the newest leaf ever
	trimmed    uint64   // leaves up to this one are forgotten
}

// apply does one change that has passed check.
func (s *state) apply(c *change) {
	switch c.op {
	case opPut, opDelete:
		s.recent = s.recent.with(c)
	case opLeaf:
		s.leaves = append(s.leaves, c.value)
		s.seq++
	case opTrim:
		s.trimmed = max(s.trimmed, min(s.seq, binary.BigEndian.Uint64(c.key)))
		s.forget(s.trimmed)
	}
}

// forget drops the leaves up to a sequence from memory.
func (s *state) forget(seq uint64) {
	if seq >= s.seq {
		s.leaves = nil
	} else if keep := s.seq - seq; keep < uint64(len(s.leaves)) {
		s.leaves = s.leaves[uint64(len(s.leaves))-keep:]
	}
}

// above returns the sequence before the first leaf in memory: up to it, leaves
// are in the database.
func (s *state) above() uint64 { return s.seq - uint64(len(s.leaves)) }

// find returns the newest change of a key, or nil if only the database knows it.
func (s *state) find(bucket string, key []byte) *change {
	if c := s.recent.find(bucket, key); c != nil {
		return c
	}
	return s.older.find(bucket, key)
}

// absorb brings the database to this state, in one transaction with the mark
// that says so. There must be no older changes.
func (s *state) absorb(tx *bolt.Tx, m mark) error {
	var b *bolt.Bucket
	name := ""
	err := s.recent.each(func(c *change) (err error) {
		if name != c.bucket {
			name = c.bucket
			if b, err = tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		if c.op == opDelete {
			return b.Delete(c.key)
		}
		return b.Put(c.key, c.value)
	})
	if err != nil {
		return err
	}
	if err := s.absorbLeaves(tx.Bucket([]byte(outboxBucket))); err != nil {
		return err
	}
	return tx.Bucket([]byte(ownBucket)).Put([]byte(markKey), m.marshal())
}

func (s *state) absorbLeaves(b *bolt.Bucket) error {
	var gone [][]byte // a cursor skips keys when it deletes them
	c := b.Cursor()
	for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) <= s.trimmed; k, _ = c.Next() {
		gone = append(gone, k)
	}
	for _, k := range gone {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	for i, leaf := range s.leaves {
		if err := b.Put(sequenceKey(s.above()+uint64(i)+1), leaf); err != nil {
			return err
		}
	}
	return b.SetSequence(s.seq)
}

// settled notes that the database has absorbed older, and leaves up to seq.
func (s *state) settled(seq uint64) {
	s.older = nil
	s.forget(seq)
}
