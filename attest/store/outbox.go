package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// MaxLeaf is the largest trail leaf body, in bytes. Leaves are small; bulk goes
// elsewhere and its digest into a leaf.
const MaxLeaf = 32 << 10

// An entry is stored as the time in milliseconds u64, the length of the kind u8,
// the kind, the body.
const leafHead = 9

// Leaf appends a trail leaf to the outbox in this transaction: the change and
// its record commit together. kind is a short registered name, body is
// deterministic CBOR of at most MaxLeaf bytes.
func (tx *Tx) Leaf(kind string, body []byte) error {
	if len(kind) == 0 || len(kind) > 255 || len(body) > MaxLeaf {
		return fmt.Errorf("leaf %q of %d bytes: the kind takes 1 to 255 bytes, the body at most %d", kind, len(body), MaxLeaf)
	}
	v := make([]byte, 0, leafHead+len(kind)+len(body))
	v = binary.BigEndian.AppendUint64(v, uint64(tx.now.UnixMilli()))
	v = append(v, byte(len(kind)))
	v = append(v, kind...)
	v = append(v, body...)
	return tx.change(&change{op: opLeaf, value: v})
}

// wholeLeaf says whether an entry is one that Leaf makes.
func wholeLeaf(v []byte) bool {
	return len(v) >= leafHead && v[8] > 0 && len(v) >= leafHead+int(v[8]) && len(v) <= leafHead+int(v[8])+MaxLeaf
}

// Entry is one leaf waiting in the outbox.
type Entry struct {
	Seq  uint64    // from 1, without gaps
	Kind string    // as given to Leaf
	Body []byte    // as given to Leaf
	At   time.Time // when its transaction ran, to the millisecond, by this node's clock
}

func entry(seq uint64, v []byte) Entry {
	n := leafHead + int(v[8])
	return Entry{
		Seq:  seq,
		At:   time.UnixMilli(int64(binary.BigEndian.Uint64(v))).UTC(),
		Kind: string(v[leafHead:n]),
		Body: bytes.Clone(v[n:]),
	}
}

// Outbox returns up to max leaves with a sequence above after, in order.
func (s *Store) Outbox(after uint64, max int) (out []Entry, err error) {
	err = s.View(func(tx *Tx) error {
		out, err = tx.outbox(after, max)
		return err
	})
	return out, err
}

func (tx *Tx) outbox(after uint64, limit int) (out []Entry, err error) {
	after = max(after, tx.state.trimmed)
	if after >= tx.state.seq {
		return nil, nil
	}
	above := tx.state.above()
	if after < above { // some are in the database only
		c := tx.base.Bucket([]byte(outboxBucket)).Cursor()
		for k, v := c.Seek(sequenceKey(after + 1)); k != nil && len(out) < limit; k, v = c.Next() {
			if len(k) != 8 || !wholeLeaf(v) {
				return out, fmt.Errorf("%w: outbox entry %x", ErrCorrupt, k)
			}
			seq := binary.BigEndian.Uint64(k)
			if seq > above { // a checkpoint has just brought it there
				break
			}
			out = append(out, entry(seq, v))
		}
		after = above
	}
	for seq := after + 1; seq <= tx.state.seq && len(out) < limit; seq++ {
		out = append(out, entry(seq, tx.state.leaves[seq-above-1]))
	}
	return out, nil
}

// Waiting returns how many leaves wait in the outbox, those of this transaction
// included.
func (tx *Tx) Waiting() uint64 { return tx.state.seq - tx.state.trimmed }

// Trimmed is the sequence up to which leaves were forgotten, because they were durable
// in the trail.
func (tx *Tx) Trimmed() uint64 { return tx.state.trimmed }

// Pending returns how many leaves wait in the outbox.
func (s *Store) Pending() (n int, err error) {
	err = s.View(func(tx *Tx) error {
		n = int(tx.Waiting())
		return nil
	})
	return n, err
}

// Trim forgets leaves up to and including a sequence, once they are durable in
// the trail.
func (s *Store) Trim(upTo uint64) error {
	return s.Update(func(tx *Tx) error { return tx.change(&change{op: opTrim, key: sequenceKey(upTo)}) })
}

// Wake is signalled after a commit that added leaves. It has one reader.
func (s *Store) Wake() <-chan struct{} { return s.wake }

func sequenceKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
