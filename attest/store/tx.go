package store

import (
	"bytes"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	maxKey   = bolt.MaxKeySize // of a key or a bucket's name, in bytes
	maxValue = 1 << 30         // of a value, in bytes
)

var errReadOnlyTx = errors.New("a change in a read-only transaction")

// Tx is one transaction, valid only during the function it was passed to.
type Tx struct {
	db       *bolt.DB
	base     *bolt.Tx // the database below; in an update, begun when first asked for
	state    state    // what lies over it
	writable bool
	now      time.Time
	changes  []*change // of the group, this update's at the end
	failed   error     // base could not be begun
}

// Put sets a key, which must not be empty, making the bucket if need be.
func (tx *Tx) Put(bucket string, key, value []byte) error {
	both := append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
	return tx.change(&change{op: opPut, bucket: bucket, key: both[:len(key):len(key)], value: both[len(key):]})
}

// Delete removes a key; one that is not there is no error.
func (tx *Tx) Delete(bucket string, key []byte) error {
	return tx.change(&change{op: opDelete, bucket: bucket, key: bytes.Clone(key)})
}

func (tx *Tx) change(c *change) error {
	if !tx.writable {
		return errReadOnlyTx
	}
	if err := c.check(); err != nil {
		return err
	}
	tx.state.apply(c)
	tx.changes = append(tx.changes, c)
	return nil
}

// Get returns a copy of the value, or nil where there is none. An empty value
// is not nil.
func (tx *Tx) Get(bucket string, key []byte) []byte {
	var v []byte
	if c := tx.state.find(bucket, key); c != nil {
		v = c.value
	} else if b := tx.bucket(bucket); b != nil {
		v = b.Get(key)
	}
	if v == nil {
		return nil
	}
	return append(make([]byte, 0, len(v)), v...)
}

// Range calls fn for keys from `from` (nil: the first) upward until it returns
// false. It goes over the bucket as it was when Range was called. k and v are
// valid only during the call, and are not fn's to change.
func (tx *Tx) Range(bucket string, from []byte, fn func(k, v []byte) bool) {
	w := walk{order: 1, layers: []layer{tx.state.recent.up(bucket, from), tx.state.older.up(bucket, from)}}
	if b := tx.bucket(bucket); b != nil {
		c := b.Cursor()
		k, v := c.Seek(from)
		w.layers = append(w.layers, &baseWalk{cursor: c, k: k, v: v})
	}
	for k, v := w.next(); k != nil; k, v = w.next() {
		if !fn(k, v) {
			return
		}
	}
}

// Last returns copies of the greatest key and its value, or nil.
func (tx *Tx) Last(bucket string) (k, v []byte) {
	w := walk{order: -1, layers: []layer{tx.state.recent.last(bucket), tx.state.older.last(bucket)}}
	if b := tx.bucket(bucket); b != nil {
		c := b.Cursor()
		k, v := c.Last()
		w.layers = append(w.layers, &baseWalk{cursor: c, down: true, k: k, v: v})
	}
	k, v = w.next()
	return bytes.Clone(k), bytes.Clone(v)
}

// bucket returns the database's part of a bucket, or nil.
func (tx *Tx) bucket(name string) *bolt.Bucket {
	if tx.base == nil && tx.failed == nil {
		tx.base, tx.failed = tx.db.Begin(false)
	}
	if tx.failed != nil {
		return nil
	}
	return tx.base.Bucket([]byte(name))
}

// end gives the database's pages back.
func (tx *Tx) end() {
	if tx.base != nil {
		_ = tx.base.Rollback() // of a transaction that reads: there is nothing to fail
	}
}
