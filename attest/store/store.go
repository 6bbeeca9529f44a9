// Package store is the node's database: transactions, the trail's outbox, and
// durability. It knows no meaning; the owner of a bucket does.
//
// A bbolt file holds named buckets ("feed/records", "authority/epochs": the
// owner's name first) and one outbox. A change and the trail leaf that tells of
// it commit in one transaction, or neither happened:
//
//	err := s.Update(func(tx *store.Tx) error {
//		if err := tx.Leaf("policy.activate", leaf); err != nil {
//			return err
//		}
//		return tx.Put("policy/active", level, digest)
//	})
//
// # A commit
//
// A commit of bbolt waits for the disk twice and writes whole pages in several
// places. So changes go to a journal first, in one write and one wait, and to the
// bbolt file from time to time, many at once. Between the two they are in memory,
// in ordered trees that are never changed: each update makes a new one, which
// shares nearly all of the one before. Whoever reads holds a tree and a read
// transaction of bbolt below it, and waits for nobody.
//
// Updates run one after another, each once. Those that run while the disk is busy
// with a commit share the next one, at most 256 of them or a MiB. An update that
// finds the disk idle commits at once; where the last commit was shared, it lets
// those who are ready run first. Leaves keep the order in which the
// functions ran. A function sees what earlier functions did, though it is not
// durable yet. Therefore no Update returns before what it saw has ended, not even
// one whose function refused: its reason may be such a change.
//
// # The journal
//
// PATH.journal exists while the store is open and was written to, and after a
// crash. Close leaves one file. All of it is in blocks of 4096 bytes:
//
//	header | place of even generations | place of odd generations
//	header = "bailiwick journal 1\n" | store's ID [16]byte | size of a place u32
//	frame  = 0x42574a46 u32 | length u32 | generation u64 | index u64 | prev [16]byte | sum [16]byte | changes
//	change = op u8 | bucket | key | value, each after its length as a varint
//
// Numbers are big-endian. A generation is what one checkpoint absorbs; its frames
// fill its place, 4 MiB, from the start, numbered from 0. prev is the sum of the
// frame before. The sum is the first half of the SHA-256 of the frame with the
// store's ID, which is random and secret, in the sum's place. It is no CRC,
// because it also names a history: frames of another copy of the database, which
// went on by itself, do not continue this one. It costs a microsecond per KiB.
//
// A frame starts on a block of its own, so that no block with an acknowledged
// frame is written again in its generation. A place is filled with zeros 256 KiB
// ahead of its first frames: from then on the disk writes data only, and no
// metadata of the file system. There is one frame at a time on its way to disk.
//
// A checkpoint starts when a frame does not fit, ten seconds after the first frame
// of a generation, and in Close. The next generation begins in the other place and
// writers go on, while the changes of the last one go to bbolt, in one transaction
// with its number and last sum. Only a writer that fills a place before the
// checkpoint of the other one has ended waits for it. Changes of more than a place
// at once go to bbolt directly.
//
// Open absorbs the generations that the database lacks. The last frame may be
// torn: it was not acknowledged. A damaged frame with others after it was, and a
// journal that does not continue the database holds acknowledged changes that
// cannot be applied: both are ErrJournal. What cannot be seen is a last frame that
// was acknowledged and rotted since, and a journal that was taken away: the store
// then opens as it was before. The node's counters tell that its disk is behind.
//
// # What always holds
//
// When Update returns nil its changes and leaves survive kill -9 and power loss,
// as far as the disk keeps its word about fsync. When a function returns an error
// or panics, nothing of it is applied and the others of its group are not
// disturbed. When a commit fails, all of its updates return that error and the
// outcome is as the disk left it: all of them, or none. After a failed commit or
// checkpoint the store refuses all further updates until it is opened again,
// because memory and disk may disagree; what was acknowledged is in the journal.
//
// A full disk is no such failure where a write was refused: nothing of that commit is applied, those
// who saw its changes fail with it, and the next update tries again. So the store goes on by itself
// when there is room. A place of the journal that is filled once needs no more room; a checkpoint
// that finds none is tried again when its place is needed, and until then refuses nobody.
//
// Readers see what is durable, all of it. Outbox sequences start at 1, grow by
// one, and are never used twice, also after Trim.
//
// Memory for changes is about twice the journal's two places. A range steps over
// each key that was deleted since the last checkpoint: who deletes at one end of a
// bucket looks for more from there on, not from the start.
//
// Package store does not encrypt, compact, or retry.
package store

import (
	"cmp"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

var (
	// ErrBusy means another process holds the file. Stop it first: two nodes
	// must never share a state directory.
	ErrBusy = errors.New("the store is in use by another process")

	// ErrCorrupt means the file is no store, or is damaged. Nothing was changed.
	// Move the file aside and start again: signed state comes back from peers;
	// the node's own epoch must be renewed.
	ErrCorrupt = errors.New("the store is damaged or truncated")

	// ErrFull means the disk or the quota is full. Nothing was applied; free
	// space. The next update tries again; restart the node only if ErrBroken follows.
	ErrFull = errors.New("no space left for the store")

	// ErrReadOnly means the file or its folder may not be written.
	ErrReadOnly = errors.New("the store may not be written")

	// ErrBroken means an earlier commit failed and the store must be opened anew.
	ErrBroken = errors.New("the store stopped after a failed commit: restart the node")

	// ErrJournal means that the journal beside the file holds acknowledged changes
	// that cannot be applied: it is damaged before its end, or belongs to another
	// database or another copy of this one. Nothing was changed. Put the pair back
	// that belongs together. Or move the journal aside: the store then opens as it
	// was at its last checkpoint, and the node takes its disk for a restored one.
	ErrJournal = errors.New("the journal does not continue the database")
)

const (
	outboxBucket = "outbox"
	ownBucket    = "store"
	markKey      = "journal" // in ownBucket
	lockWait     = time.Second
	// mapped is how much of the file is mapped from the start, in bytes: until it
	// has grown so large, no checkpoint waits for a reader to end.
	mapped = 64 << 20
	// growth is by how much the file grows, in bytes.
	growth = 1 << 20
)

// Store is an open file. Its methods may be called from any goroutine; one
// update's function runs at a time, views run beside it.
type Store struct {
	db        *bolt.DB
	wake      chan struct{}
	faults    func(at step) Fault
	published atomic.Pointer[state] // what is durable

	disk    chan struct{} // held, by a value in it, by whoever writes; guards journal and crowd
	journal journal
	crowd   bool // the last group had several members

	absorbing sync.Mutex  // held while a checkpoint runs; guards owed
	owed      *checkpoint // that a full disk did not take; older is in memory until it does

	mu      sync.Mutex // held by the function that runs; guards what follows, and who publishes
	next    *group     // to join, or nil
	writing *group     // on its way to disk, or nil
	failure error      // the first step that failed for good
	trouble error      // of the last commit
	closed  bool
}

// Err is why the last update could not be made durable, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.broken(), s.trouble)
}

// Close waits for running transactions, brings all into the one file and
// releases it. A store that stopped, or found no room, leaves its journal for the next Open.
func (s *Store) Close() error {
	s.mu.Lock()
	again, g := s.closed, s.next
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	if g != nil {
		_ = s.wait(g) // its members are told
	}
	s.disk <- struct{}{}
	defer func() { <-s.disk }()
	s.mu.Lock()
	told := s.failure != nil
	s.mu.Unlock()
	err := s.settle()
	if err == nil {
		err = s.journal.remove()
	} else if told || errors.Is(err, ErrFull) {
		err = nil
	}
	return errors.Join(err, s.journal.close(), s.db.Close())
}

// Update runs fn once, in a group that it may share with others; see the package
// doc. The result is nil only when all of it is durable. fn must not keep tx, and
// must not call Update: it would wait for itself.
func (s *Store) Update(fn func(*Tx) error) (err error) {
	g, err := s.join()
	if err != nil {
		return err
	}
	defer func() { // also when fn panics
		s.mu.Unlock()
		if lost := s.wait(g); lost != nil {
			err = lost
		}
	}()
	return s.run(g, fn)
}

// View runs fn on one consistent, durable state. fn must not keep tx.
func (s *Store) View(fn func(*Tx) error) (err error) {
	defer catch(&err)
	tx, err := s.moment(s.db.Begin)
	if err != nil {
		return system(err)
	}
	defer tx.end()
	return fn(tx)
}

// moment reads what is published and the database below it. That may have
// absorbed what lies over it, and must not have gone further: so no generation may
// begin in between.
func (s *Store) moment(begin func(writable bool) (*bolt.Tx, error)) (*Tx, error) {
	for {
		st := s.published.Load()
		base, err := begin(false)
		if err != nil {
			return nil, err
		}
		if s.published.Load().generation == st.generation {
			return &Tx{base: base, state: *st}, nil
		}
		_ = base.Rollback() // of a transaction that reads: there is nothing to fail
	}
}
