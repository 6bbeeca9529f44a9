package bundle

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
)

// Loaded is a policy file taken apart. Nothing of it was verified.
type Loaded struct {
	Bytes   []byte // the whole file
	Signed  []byte // the record, with its signature
	Record  Record
	Content []byte // packed
}

// Load reads a policy file. Errors name it, and wrap ErrMalformed or are the file system's.
func Load(path string) (Loaded, error) {
	b, err := bounded.ReadFile(path, MaxFile)
	if err != nil {
		return Loaded{}, err
	}
	l, err := Take(b)
	if err != nil {
		return Loaded{}, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// Take is Load for the bytes of a file.
func Take(b []byte) (l Loaded, err error) {
	l.Bytes = b
	if l.Signed, l.Content, err = Split(b); err == nil {
		l.Record, err = ReadRecord(l.Signed)
	}
	return l, err
}

// Delegation is what the last of the record's delegations states; false where it has none.
func (r *Record) Delegation() (d Delegation, there bool, err error) {
	if len(r.Delegations) == 0 {
		return d, false, nil
	}
	d, err = ReadDelegation(r.Delegations[len(r.Delegations)-1])
	return d, true, err
}
