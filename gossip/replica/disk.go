package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Buckets. A feed's key is origin 0x00 epoch, a record's that and seq, both 8
// bytes big-endian.
const (
	bucketRecords = "feed/records" // record -> encoded record
	bucketRefused = "feed/refused" // record -> places of the ops policy refused
	bucketCerts   = "feed/certs"   // feed -> epoch certificate, DER
	bucketProofs  = "feed/proofs"  // finding's digest -> proof
	bucketHolds   = "feed/holds"   // origin -> hold
	bucketSelf    = "feed/self"    // "rewound" -> epoch
)

var keyRewound = []byte("rewound")

// hold is why an origin is held, or which findings no longer do it.
type hold struct {
	Held     bool   `cbor:"1,keyasint"`
	Answered uint64 `cbor:"2,keyasint"` // findings of earlier epochs were answered by a release
}

func feedKey(f feed.FeedID) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(f.Origin.String()), 0), f.Epoch)
}

func recordKey(f feed.FeedID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(feedKey(f), seq)
}

// write is one change that waits for the next commit.
type write struct {
	bucket     string
	key, value []byte
}

func (r *Replica) put(bucket string, key, value []byte) {
	r.writes = append(r.writes, write{bucket, key, value})
}

func (r *Replica) leaf(kind string, body any) {
	r.leaves = append(r.leaves, write{bucket: kind, value: encode(body)})
}

// load reads everything back. Proofs come first: they say where feeds end.
func (r *Replica) load() error {
	var certs [][]byte
	err := r.cfg.Store.View(func(tx *store.Tx) error {
		var err error
		tx.Range(bucketHolds, nil, func(k, v []byte) bool {
			var id spiffeid.ID
			var h hold
			if id, err = spiffeid.FromString(string(k)); err == nil {
				err = statement.Unmarshal(v, &h)
			}
			r.holds[id] = h
			return err == nil
		})
		tx.Range(bucketProofs, nil, func(_, v []byte) bool {
			proof := append([]byte(nil), v...)
			f, err := feed.VerifyProof(proof, r.cfg.Keys)
			if err != nil { // its region's root is gone, say: the hold stays
				r.cfg.Log.Warn("stored proof cannot be checked", "error", err)
				return true
			}
			r.learnFinding(f, proof)
			return true
		})
		tx.Range(bucketCerts, nil, func(_, v []byte) bool {
			certs = append(certs, append([]byte(nil), v...))
			return true
		})
		if b := tx.Get(bucketSelf, keyRewound); len(b) == 8 {
			r.rewound = binary.BigEndian.Uint64(b)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read the feed store: %w", err)
	}
	for _, der := range certs {
		key, err := r.cfg.Keys(der)
		if err != nil { // its records stay on disk until it can be checked
			r.cfg.Log.Warn("stored epoch certificate cannot be checked", "error", err)
			continue
		}
		if _, err := r.learnKey(key); err != nil {
			return err
		}
	}
	return nil
}

// restore fills a feed that just became known from the store.
func (r *Replica) restore(c *feed.Chain, f feed.FeedID) error {
	var last feed.Record
	err := r.scan(f, 1, func(rec feed.Record) (bool, error) {
		_, ok, err := c.Restore(rec)
		if ok {
			last = rec
		}
		return ok, err
	})
	if err != nil || last.Seq == 0 {
		return err
	}
	key, _ := c.Key(f.Epoch)
	if err := last.Verify(key); err != nil { // it covers all before it
		return fmt.Errorf("%w: record %d of %s: %w", feed.ErrChain, last.Seq, f, err)
	}
	return nil
}

// scan reads the records of a feed from seq on until fn returns false: those of
// the store, then those of this batch. Peers hear of a record before it is
// durable here and may ask for it at once.
func (r *Replica) scan(f feed.FeedID, seq uint64, fn func(feed.Record) (bool, error)) error {
	more := true
	err := r.cfg.Store.View(func(tx *store.Tx) error {
		var err error
		prefix := feedKey(f)
		tx.Range(bucketRecords, recordKey(f, seq), func(k, v []byte) bool {
			if len(k) != len(prefix)+8 || string(k[:len(prefix)]) != string(prefix) {
				return false
			}
			var rec feed.Record
			if rec, err = feed.Parse(append([]byte(nil), v...)); err != nil {
				err = fmt.Errorf("%w: stored record %d of %s: %w", feed.ErrChain, binary.BigEndian.Uint64(k[len(prefix):]), f, err)
				return false
			}
			seq = rec.Seq + 1
			more, err = fn(rec)
			return more && err == nil
		})
		return err
	})
	for err == nil && more {
		rec, ok := r.fresh[f][seq]
		if !ok {
			return nil
		}
		seq++
		more, err = fn(rec)
	}
	return err
}

// statementAt gives package feed a header back.
func (r *Replica) statementAt(f feed.FeedID, seq uint64) []byte {
	var out []byte
	err := r.scan(f, seq, func(rec feed.Record) (bool, error) {
		if rec.Seq == seq {
			out = rec.Statement()
		}
		return false, nil
	})
	if err != nil {
		r.cfg.Log.Error("read a record back", "feed", f.String(), "seq", seq, "error", err)
	}
	return out
}

// stored returns everything an origin has written that counts and was not
// refused, for the view.
func (r *Replica) stored(c *feed.Chain, origin spiffeid.ID) ([]item, error) {
	var out []item
	for _, epoch := range c.Epochs() {
		f := feed.FeedID{Origin: origin, Epoch: epoch}
		head := c.Head(epoch)
		refused, err := r.refusedOps(f)
		if err != nil {
			return nil, err
		}
		err = r.scan(f, 1, func(rec feed.Record) (bool, error) {
			if rec.Seq > head.Seq {
				return false, nil
			}
			ops, err := rec.Ops()
			if err != nil {
				return false, fmt.Errorf("%w: %d of %s: %w", feed.ErrChain, rec.Seq, f, err)
			}
			out = append(out, items(rec, ops, refused[rec.Seq])...)
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// refusedOps returns which ops of a feed's records policy has refused.
func (r *Replica) refusedOps(f feed.FeedID) (map[uint64][]int, error) {
	out := map[uint64][]int{}
	err := r.cfg.Store.View(func(tx *store.Tx) error {
		var err error
		prefix := feedKey(f)
		tx.Range(bucketRefused, prefix, func(k, v []byte) bool {
			if len(k) != len(prefix)+8 || string(k[:len(prefix)]) != string(prefix) {
				return false
			}
			var places []int
			err = statement.Unmarshal(v, &places)
			out[binary.BigEndian.Uint64(k[len(prefix):])] = places
			return err == nil
		})
		return err
	})
	return out, err
}
