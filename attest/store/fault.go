package store

import (
	"errors"
	"io/fs"
	"syscall"
)

// Fault says how a commit is broken in a test of a crash.
type Fault int

const (
	NoFault     Fault = iota
	FaultBefore       // the commit is lost: the error tells the truth
	FaultAfter        // the commit landed, and is reported lost
	FaultFull         // there is no room for it: it is refused, and the store goes on
)

// before is what a step meets before it did anything.
func (f Fault) before() error {
	switch f {
	case FaultBefore:
		return errInjected
	case FaultFull:
		return &fs.PathError{Op: "write", Path: "injected", Err: syscall.ENOSPC}
	}
	return nil
}

var errInjected = errors.New("injected fault")

// step is a kind of durable step that a test can break. Those of the journal's
// file are broken in the file.
type step int

const (
	stepCommit     step = iota // a group's changes become durable
	stepCheckpoint             // the database absorbs a generation
)

// OpenFaulty is Open for tests: before each commit, numbered from 1, faults
// says whether and how it breaks. After a fault other than FaultFull the store stays broken,
// as after a real failed commit; open the path again to see what a restart finds.
func OpenFaulty(path string, faults func(op int) Fault) (*Store, error) {
	s, err := Open(path)
	if err != nil {
		return nil, err
	}
	commits := 0
	s.faults = func(at step) Fault {
		if at != stepCommit {
			return NoFault
		}
		commits++
		return faults(commits)
	}
	return s, nil
}

func (s *Store) fault(at step) Fault {
	if s.faults == nil {
		return NoFault
	}
	return s.faults(at)
}
