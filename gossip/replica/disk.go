package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Buckets. A feed's key is origin 0x00 epoch, a record's that and seq, both 8
// bytes big-endian.
const (
	bucketRecords = "feed/records" // record -> encoded record
	bucketRefused = "feed/refused" // record -> places of the ops policy refused
	bucketHeaders = "feed/headers" // record -> signed header, of records that were pruned
	bucketCerts   = "feed/certs"   // feed -> epoch certificate, DER
	bucketCovers  = "feed/covers"  // feed -> cover
	bucketProofs  = "feed/proofs"  // finding's digest -> proof
	bucketHolds   = "feed/holds"   // origin -> hold
	bucketSelf    = "feed/self"    // "rewound" -> epoch
	bucketPoison  = "feed/poison"  // RecordID -> poison
)

var keyRewound = []byte("rewound")

// Disk keeps what a replica must not lose. A value that was put is not changed by
// either side afterwards. Errors are the disk's own.
type Disk interface {
	View(func(Tx) error) error // reads one consistent state
	// Update makes all of it durable where it returns nil. After a store.ErrFull that is no
	// store.ErrBroken it can be tried again; after any other error the replica must be opened anew.
	Update(func(Tx) error) error
}

// Tx is a transaction of a Disk. Its methods are those of store.Tx.
type Tx interface {
	Get(bucket string, key []byte) []byte
	Put(bucket string, key, value []byte) error
	Delete(bucket string, key []byte) error
	Range(bucket string, from []byte, fn func(k, v []byte) bool)
	Leaf(kind string, body []byte) error
}

// onStore is the product's disk.
type onStore struct{ *store.Store }

func (d onStore) View(fn func(Tx) error) error {
	return d.Store.View(func(tx *store.Tx) error { return fn(tx) })
}

func (d onStore) Update(fn func(Tx) error) error {
	return d.Store.Update(func(tx *store.Tx) error { return fn(onTx{tx}) })
}

// onTx counts leaves where too many wait for the trail, as far as their kinds let it. An own record
// is not refused here, after it was signed: Config.Recordable was asked before.
type onTx struct{ *store.Tx }

func (t onTx) Leaf(kind string, body []byte) error {
	if k, ok := trail.LookupKind(kind); ok && k.Unrecorded() == trail.Gapped {
		return trail.AppendEncoded(t.Tx, k, body)
	}
	return t.Tx.Leaf(kind, body)
}

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

// write is one change that waits for the next commit. Without a value it deletes.
type write struct {
	bucket     string
	key, value []byte
}

func (r *Replica) put(bucket string, key, value []byte) {
	r.writes = append(r.writes, write{bucket, key, value})
}

func (r *Replica) remove(bucket string, key []byte) {
	r.writes = append(r.writes, write{bucket: bucket, key: key})
}

func (r *Replica) leaf(kind string, body any) {
	r.leaves = append(r.leaves, write{bucket: kind, value: encode(body)})
}

// load reads everything back. Proofs come first: they say where feeds end.
func (r *Replica) load() error {
	keys := map[spiffeid.ID][]feed.EpochKey{} // epochs descending
	err := r.disk.View(func(tx Tx) error {
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
		if err == nil {
			err = r.loadRollbacks(tx)
		}
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
		tx.Range(bucketCovers, nil, func(_, v []byte) bool {
			if cover, err := feed.VerifyCover(v, r.cfg.Checkpoints); err != nil { // its region's trust record is gone, say
				r.cfg.Log.Warn("stored cover cannot be checked", "error", err)
			} else {
				r.covers[cover.Feed] = cover
			}
			return true
		})
		tx.Range(bucketCerts, nil, func(_, v []byte) bool {
			key, err := r.cfg.Keys(bytes.Clone(v))
			if err != nil { // its records stay on disk until it can be checked
				r.cfg.Log.Warn("stored epoch certificate cannot be checked", "error", err)
				return true
			}
			keys[key.Origin] = append([]feed.EpochKey{key}, keys[key.Origin]...)
			return true
		})
		err = errors.Join(err, r.loadPoison(tx))
		if b := tx.Get(bucketSelf, keyRewound); len(b) == 8 {
			r.rewound = binary.BigEndian.Uint64(b)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read the feed store: %w", err)
	}
	for origin, own := range keys {
		for len(own) > 0 {
			at, err := r.learnKeys(own)
			if err == nil {
				break
			}
			if origin == r.cfg.Self || !errors.Is(err, feed.ErrChain) {
				return err
			}
			if err := r.drop(own[at].Feed(), err); err != nil {
				return err
			}
			delete(r.chains, origin) // half of that feed is in it
		}
	}
	return nil
}

// learnKeys makes the keys of an origin known, in order. With an error comes the
// place of the key that it is about.
func (r *Replica) learnKeys(keys []feed.EpochKey) (at int, err error) {
	for i, key := range keys {
		if _, err := r.learnKey(key); err != nil {
			return i, err
		}
	}
	return 0, nil
}

// drop deletes what the store has of another node's feed, because its records do not
// chain: that must not keep this node from starting, and peers have the feed.
func (r *Replica) drop(f feed.FeedID, why error) error {
	r.cfg.Log.Error("the stored records of a feed do not chain; they are dropped, and peers asked for them", "feed", f.String(), "error", why)
	err := r.disk.Update(func(tx Tx) error {
		for _, bucket := range []string{bucketRecords, bucketRefused, bucketHeaders} {
			var old [][]byte
			tx.Range(bucket, feedKey(f), func(k, _ []byte) bool {
				if inFeed(k, f) {
					old = append(old, bytes.Clone(k))
				}
				return inFeed(k, f)
			})
			for _, k := range old {
				if err := tx.Delete(bucket, k); err != nil {
					return err
				}
			}
		}
		return tx.Leaf(LeafRefuse, encode(Refuse{Origin: f.Origin.String(), Epoch: f.Epoch, Why: "store", Detail: detail(why)}))
	})
	if err != nil {
		return fmt.Errorf("drop the stored records of %s: %w", f, err)
	}
	return nil
}

// forget deletes what a chain has given up.
func (r *Replica) forget(c *feed.Chain) {
	for _, gone := range c.Gone() {
		for seq := gone.From; seq <= gone.To; seq++ {
			delete(r.fresh[gone.Feed], seq)
			r.remove(bucketRecords, recordKey(gone.Feed, seq))
			r.remove(bucketRefused, recordKey(gone.Feed, seq))
		}
		r.rebuild[c.Origin()] = true
		r.moved(c)
	}
}

// restore fills a feed that just became known from the store.
func (r *Replica) restore(c *feed.Chain, f feed.FeedID) error {
	defer c.Settle()
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
	err := r.disk.View(func(tx Tx) error {
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
	if err == nil && out == nil {
		err = r.disk.View(func(tx Tx) error {
			out = tx.Get(bucketHeaders, recordKey(f, seq))
			return nil
		})
	}
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
		refused, err := r.refusedOps(f)
		if err != nil {
			return nil, err
		}
		err = r.scan(f, c.Start(epoch), func(rec feed.Record) (bool, error) {
			if !c.Counts(rec) {
				return rec.Kind == feed.Snapshot, nil
			}
			ops, err := rec.Ops()
			if err != nil {
				return false, fmt.Errorf("%w: %d of %s: %w", feed.ErrChain, rec.Seq, f, err)
			}
			for _, it := range items(rec, ops, refused[rec.Seq]) {
				if origin == r.cfg.Self || !r.poisons.crashed(it.Record) {
					out = append(out, it)
				}
			}
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
	err := r.disk.View(func(tx Tx) error {
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
