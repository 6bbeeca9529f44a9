package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// Open opens or makes the file at path, whose folder must exist. Errors wrap
// ErrBusy, ErrCorrupt, ErrJournal, ErrFull, ErrReadOnly or the file system's.
func Open(path string) (*Store, error) { return openWith(path, journalPlace, createFile, nil) }

// openWith lets a test choose the size of the journal and see its writes.
func openWith(path string, place int, create func(string) (file, error), faults func(step) Fault) (*Store, error) {
	s := &Store{
		wake: make(chan struct{}, 1), disk: make(chan struct{}, 1), faults: faults,
		journal: journal{path: path + journalSuffix, place: place, create: create},
	}
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
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) { // what is wrong with a file shows when it is opened
		if err := s.orphan(); err != nil {
			return err
		}
		if err := createBase(path); err != nil {
			return system(err)
		}
	}
	s.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, InitialMmapSize: mapped})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrBusy
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	case err != nil:
		return system(err)
	}
	s.db.AllocSize = growth
	if err := s.recover(); err != nil {
		return errors.Join(system(err), s.db.Close())
	}
	return nil
}

// orphan refuses a journal whose database is gone, before a new one is made.
func (s *Store) orphan() error {
	b, err := readJournal(s.journal.path)
	if err != nil {
		return err
	}
	if _, err := placeSize(b, newMark().id); err != nil {
		return fmt.Errorf("%s: %w", s.journal.path, err)
	}
	return nil
}

// createBase makes a new database aside and links it into place, unless another process
// has made one meanwhile. So it is there whole or not at all, and waits for the disk only
// when it is.
func createBase(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(f.Name(), 0o600, &bolt.Options{NoSync: true, NoGrowSync: true})
	if err != nil {
		return err
	}
	_, err = markBase(db)
	if err = errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// markBase makes the outbox and the mark of a database that has none.
func markBase(db *bolt.DB) (mark, error) {
	m := newMark()
	return m, db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists([]byte(outboxBucket)); err != nil {
			return err
		}
		own, err := tx.CreateBucketIfNotExists([]byte(ownBucket))
		if err != nil {
			return err
		}
		return own.Put([]byte(markKey), m.marshal())
	})
}

// recover absorbs what the journal holds beyond the database.
func (s *Store) recover() error {
	st, m, err := s.base()
	if err != nil {
		return err
	}
	b, err := readJournal(s.journal.path)
	if err != nil {
		return err
	}
	changes, end, err := parseJournal(b, m)
	if err != nil {
		return fmt.Errorf("%s: %w", s.journal.path, err)
	}
	if end != m {
		for _, c := range changes {
			st.apply(c)
		}
		if err := s.absorb(st, end); err != nil {
			return err
		}
		st.recent, st.leaves = nil, nil
	}
	if b != nil {
		if err := s.journal.remove(); err != nil {
			return err
		}
	}
	s.journal.at = end
	s.journal.next()
	s.published.Store(&st)
	return nil
}

// base reads where the database ends, and marks one of a version without a journal.
func (s *Store) base() (st state, m mark, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if outbox := tx.Bucket([]byte(outboxBucket)); outbox != nil {
			st.seq = outbox.Sequence()
			st.trimmed = st.seq
			if first, _ := outbox.Cursor().First(); len(first) == 8 {
				st.trimmed = binary.BigEndian.Uint64(first) - 1
			} else if first != nil {
				return fmt.Errorf("%w: outbox entry %x", ErrCorrupt, first)
			}
		}
		if own := tx.Bucket([]byte(ownBucket)); own != nil { // there is none before the first version with a journal
			m, err = parseMark(own.Get([]byte(markKey)))
		}
		return err
	})
	if err != nil || m != (mark{}) {
		return st, m, err
	}
	m, err = markBase(s.db)
	return st, m, err
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

// passing reports whether a step failed for want of room before anything of it counted: it can
// be tried again. A failed sync is another thing, because what it leaves is unknown.
func passing(err error) bool {
	var p *fs.PathError
	return errors.Is(err, ErrFull) && errors.As(err, &p) && (p.Op == "write" || p.Op == "open")
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
