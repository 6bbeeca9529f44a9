package store

import "errors"

// Fault says how a commit is broken in a test of a crash.
type Fault int

const (
	NoFault     Fault = iota
	FaultBefore       // the commit is lost: the error tells the truth
	FaultAfter        // the commit landed, and is reported lost
)

var errInjected = errors.New("injected fault")

// OpenFaulty is Open for tests: before each commit, numbered from 1, faults
// says whether and how it breaks. After a fault the store stays broken, as
// after a real failed commit; open the path again to see what a restart finds.
func OpenFaulty(path string, faults func(op int) Fault) (*Store, error) {
	s, err := Open(path)
	if err != nil {
		return nil, err
	}
	s.faults = faults
	return s, nil
}
