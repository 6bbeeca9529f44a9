// Package store is the node's only database file: transactions, the trail's
// outbox, and durability. It knows no meaning; the owner of a bucket does.
//
// One bbolt file holds named buckets ("feed/records", "authority/epochs": the
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
// # Shared commits
//
// Updates run one after another, each once. Those that come while one runs, or
// while the disk is busy with a commit, share the next transaction, at most 256
// of them, and one wait for the disk. An update that nobody waits behind commits
// at once. Leaves keep the order in which the functions ran.
//
// A function sees what earlier functions of its transaction did, though it is not
// durable yet. Therefore no Update returns before its transaction has ended, not
// even one whose function refused: its reason may be such a change.
//
// # What always holds
//
// When Update returns nil its changes and leaves survive kill -9 and power loss,
// as far as the disk keeps its word about fsync. When a function returns an error
// or panics, nothing of it is applied and the others of its transaction are not
// disturbed. When a commit fails, all of its updates return that error and the
// outcome is as the disk left it: all of them, or none (bbolt never applies half).
// The store then refuses all further updates until it is opened again, because
// memory and disk may disagree. Outbox sequences start at 1, grow by one, and are
// never used twice, also after Trim.
//
// Package store does not encrypt, compact, or retry.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
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
	// space and restart the node.
	ErrFull = errors.New("no space left for the store")

	// ErrReadOnly means the file or its folder may not be written.
	ErrReadOnly = errors.New("the store may not be written")

	// ErrBroken means an earlier commit failed and the store must be opened anew.
	ErrBroken = errors.New("the store stopped after a failed commit: restart the node")
)

const (
	outboxBucket = "outbox"
	lockWait     = time.Second
)

// Store is an open file. Its methods may be called from any goroutine; one
// update runs at a time, views run beside it on the last committed state.
type Store struct {
	db     *bolt.DB
	wake   chan struct{}
	faults func(op int) Fault

	waiting atomic.Int64 // updates that want mu
	mu      sync.Mutex   // held by the update that runs; guards what follows
	group   *group       // the open transaction, or nil
	ops     int          // commits so far
	broken  bool         // a commit failed
}

// Open opens or makes the file at path, whose folder must exist. Errors wrap
// ErrBusy, ErrCorrupt, ErrFull, ErrReadOnly or the file system's.
func Open(path string) (*Store, error) {
	s := &Store{wake: make(chan struct{}, 1)}
	if err := s.open(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(path string) (err error) {
	defer catch(&err) // bbolt panics on some damage that it only meets later
	if err := checkLength(path); err != nil {
		return err
	}
	s.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrBusy
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	case err != nil:
		return system(err)
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(outboxBucket))
		return err
	})
	if err != nil {
		return errors.Join(system(err), s.db.Close())
	}
	return syncDir(filepath.Dir(path))
}

// Close waits for running transactions and releases the file.
func (s *Store) Close() error { return s.db.Close() }

// Update runs fn once, in a write transaction that it may share with others; see
// the package doc. The result is nil only when all of it is durable. fn must not
// keep tx, and must not call Update: it would wait for itself.
func (s *Store) Update(fn func(*Tx) error) (err error) {
	g, err := s.join()
	if err != nil {
		return err
	}
	defer func() { // also when fn panics
		if lost := s.leave(g); lost != nil {
			err = lost
		}
	}()
	return g.run(fn)
}

// View runs fn on one consistent, committed state. fn must not keep tx.
func (s *Store) View(fn func(*Tx) error) (err error) {
	defer catch(&err)
	return s.db.View(func(btx *bolt.Tx) error { return fn(&Tx{tx: btx}) })
}

// system gives the operating system's reasons our names.
func system(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

// catch turns bbolt's panics about damaged pages into ErrCorrupt. Panics of our
// own callers go on.
func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case string:
		*err = fmt.Errorf("%w: %s", ErrCorrupt, r)
	default:
		panic(r)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func sequenceKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
