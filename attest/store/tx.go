package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// MaxLeaf is the largest trail leaf body, in bytes. Leaves are small; bulk goes
// elsewhere and its digest into a leaf.
const MaxLeaf = 32 << 10

// Tx is one transaction, valid only during the function it was passed to.
type Tx struct {
	tx       *bolt.Tx
	writable bool
	leaves   int
	writes   []write // to undo, should the function refuse
	now      time.Time
}

// Put sets a key, which must not be empty, making the bucket if need be.
func (tx *Tx) Put(bucket string, key, value []byte) error {
	b, err := tx.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bucket, err)
	}
	tx.overwriting(b, bucket, key)
	if err := b.Put(key, value); err != nil {
		return fmt.Errorf("put %s/%x: %w", bucket, key, err)
	}
	return nil
}

// Get returns a copy of the value, or nil where there is none. An empty value
// is not nil.
func (tx *Tx) Get(bucket string, key []byte) []byte {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	v := b.Get(key)
	if v == nil {
		return nil
	}
	return append(make([]byte, 0, len(v)), v...)
}

// Delete removes a key; one that is not there is no error.
func (tx *Tx) Delete(bucket string, key []byte) error {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	tx.overwriting(b, bucket, key)
	if err := b.Delete(key); err != nil {
		return fmt.Errorf("delete %s/%x: %w", bucket, key, err)
	}
	return nil
}

// Range calls fn for keys from `from` (nil: the first) upward until it returns
// false. k and v are valid only during the call, and the bucket must not be
// changed meanwhile.
func (tx *Tx) Range(bucket string, from []byte, fn func(k, v []byte) bool) {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return
	}
	c := b.Cursor()
	for k, v := c.Seek(from); k != nil; k, v = c.Next() {
		if !fn(k, v) {
			return
		}
	}
}

// Last returns copies of the greatest key and its value, or nil.
func (tx *Tx) Last(bucket string) (k, v []byte) {
	b := tx.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil
	}
	k, v = b.Cursor().Last()
	return bytes.Clone(k), bytes.Clone(v)
}

// Leaf appends a trail leaf to the outbox in this transaction: the change and
// its record commit together. kind is a short registered name, body is
// deterministic CBOR of at most MaxLeaf bytes.
func (tx *Tx) Leaf(kind string, body []byte) error {
	if !tx.writable {
		return errors.New("leaf in a read-only transaction")
	}
	if len(kind) == 0 || len(kind) > 255 || len(body) > MaxLeaf {
		return fmt.Errorf("leaf %q of %d bytes: the kind takes 1 to 255 bytes, the body at most %d", kind, len(body), MaxLeaf)
	}
	b, err := tx.tx.CreateBucketIfNotExists([]byte(outboxBucket))
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	seq, err := b.NextSequence()
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	tx.writes = append(tx.writes, write{bucket: outboxBucket, key: sequenceKey(seq), sequence: true})
	v := make([]byte, 0, 9+len(kind)+len(body))
	v = binary.BigEndian.AppendUint64(v, uint64(tx.now.UnixMilli()))
	v = append(v, byte(len(kind)))
	v = append(v, kind...)
	v = append(v, body...)
	if err := b.Put(sequenceKey(seq), v); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	tx.leaves++
	return nil
}

// Entry is one leaf waiting in the outbox.
type Entry struct {
	Seq  uint64    // from 1, without gaps
	Kind string    // as given to Leaf
	Body []byte    // as given to Leaf
	At   time.Time // when its transaction ran, to the millisecond, by this node's clock
}

// Outbox returns up to max leaves with a sequence above after, in order.
func (s *Store) Outbox(after uint64, max int) ([]Entry, error) {
	var out []Entry
	err := s.View(func(tx *Tx) error {
		var bad error
		tx.Range(outboxBucket, sequenceKey(after+1), func(k, v []byte) bool {
			if len(k) != 8 || len(v) < 9 || len(v) < 9+int(v[8]) {
				bad = fmt.Errorf("%w: outbox entry %x", ErrCorrupt, k)
				return false
			}
			n := 9 + int(v[8])
			out = append(out, Entry{
				Seq:  binary.BigEndian.Uint64(k),
				At:   time.UnixMilli(int64(binary.BigEndian.Uint64(v))).UTC(),
				Kind: string(v[9:n]),
				Body: bytes.Clone(v[n:]),
			})
			return len(out) < max
		})
		return bad
	})
	return out, err
}

// Pending returns how many leaves wait in the outbox.
func (s *Store) Pending() (n int, err error) {
	err = s.View(func(tx *Tx) error {
		n = tx.tx.Bucket([]byte(outboxBucket)).Stats().KeyN
		return nil
	})
	return n, err
}

// Trim forgets leaves up to and including a sequence, once they are durable in
// the trail.
func (s *Store) Trim(upTo uint64) error {
	return s.Update(func(tx *Tx) error { // past the record of undo: nothing here refuses
		c := tx.tx.Bucket([]byte(outboxBucket)).Cursor()
		for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) <= upTo; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
		}
		return nil
	})
}

// Wake is signalled after a commit that added leaves. It has one reader.
func (s *Store) Wake() <-chan struct{} { return s.wake }
