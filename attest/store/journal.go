package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

const (
	journalSuffix = ".journal"
	journalPlace  = 4 << 20   // bytes of one generation's place
	maxJournal    = 64 << 20  // bytes of the largest file that is read, should the size of places ever change
	journalStep   = 256 << 10 // how far a place is written with zeros at a time
)

var zeros [journalStep]byte

// file is what the journal needs of one. Sync makes written bytes durable.
type file interface {
	WriteAt(b []byte, at int64) (int, error)
	Sync() error
	Close() error
}

// journal appends frames. It belongs to whoever holds Store.disk.
type journal struct {
	path   string
	place  int // bytes of one
	create func(path string) (file, error)

	file   file   // nil until the first frame, and after remove
	at     mark   // the generation being written, the last frame's sum
	index  uint64 // of its next frame
	end    int    // of its frames, in its place
	zeroed [2]int // how much of each place is written, so that overwriting it changes no metadata
	buf    []byte
}

// fits says whether a frame of that size may follow.
func (j *journal) fits(size int) bool { return j.end+size <= j.place }

// next begins a generation.
func (j *journal) next() {
	j.at.generation++
	j.index, j.end = 0, 0
}

// append makes one frame durable.
func (j *journal) append(changes []*change) error {
	if j.file == nil {
		if err := j.begin(); err != nil {
			return err
		}
	}
	b, s := appendFrame(j.buf[:0], j.at.id, j.at.generation, j.index, j.at.last, changes)
	if j.buf = b; cap(b) > journalStep {
		j.buf = nil // a rare one: not worth keeping the memory
	}
	side := j.at.generation % 2
	start := blockSize + int(side)*j.place
	end := j.end + len(b)
	if end > j.zeroed[side] {
		to := min((end+journalStep-1)/journalStep*journalStep, j.place)
		for at := j.zeroed[side]; at < to; at += journalStep {
			if _, err := j.file.WriteAt(zeros[:min(journalStep, to-at)], int64(start+at)); err != nil {
				return err
			}
		}
		j.zeroed[side] = to
	}
	if _, err := j.file.WriteAt(b, int64(start+j.end)); err != nil {
		return j.takeBack(int64(start+j.end), err)
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.index, j.end, j.at.last = j.index+1, end, s
	return nil
}

// takeBack removes what a write that failed may have left of a frame, so that no restart finds it
// whole. Where that fails too, the error is none that passes.
func (j *journal) takeBack(at int64, failed error) error {
	if _, err := j.file.WriteAt(zeros[:blockSize], at); err != nil {
		return fmt.Errorf("%v; and it cannot be taken back: %w", failed, errno(err))
	}
	return failed
}

// errno is the reason of a file operation without the operation.
func errno(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// begin makes the file. Its header is durable before the first frame: one that is
// torn says that no frame was ever acknowledged.
func (j *journal) begin() (err error) {
	if j.file, err = j.create(j.path); err != nil {
		j.file = nil
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.close()) // the next try makes it anew
		}
	}()
	j.zeroed = [2]int{}
	if _, err := j.file.WriteAt(journalHeader(j.at.id, j.place), 0); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(j.path))
}

// remove takes the file away once all of it is absorbed. It need not be durable:
// a journal that comes back says nothing new.
func (j *journal) remove() error {
	err := j.close()
	if gone := os.Remove(j.path); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file = nil
	return f.Close()
}

// readJournal reads a whole journal; one that is not there is empty.
func readJournal(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, system(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxJournal {
		return nil, fmt.Errorf("%w: %s has %d bytes, a journal at most %d", ErrJournal, path, info.Size(), maxJournal)
	}
	b := make([]byte, info.Size())
	for n := 0; n < len(b); {
		more, err := f.ReadAt(b[n:], int64(n))
		if n += more; err != nil && n < len(b) {
			return nil, err
		}
	}
	return b, nil
}

// dataFile syncs data, and of the metadata only what reading it back takes.
type dataFile struct{ *os.File }

func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	return dataFile{f}, err
}

func (f dataFile) Sync() error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
