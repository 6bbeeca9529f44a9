package bundle

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxFile is the largest policy file, in bytes.
const MaxFile = statement.MaxSize + 16<<20

// file is a record and its content side by side, for bringing policy by hand.
type file struct {
	Statement []byte `cbor:"1,keyasint"`
	Content   []byte `cbor:"2,keyasint"`
}

// Join puts a signed record and its content into one file.
func Join(signed, content []byte) ([]byte, error) {
	return statement.Marshal(file{signed, content})
}

// Split takes a policy file apart, for Verify. Errors wrap ErrMalformed.
func Split(b []byte) (signed, content []byte, err error) {
	if len(b) > MaxFile {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxFile)
	}
	var f file
	if err := statement.Unmarshal(b, &f); err != nil {
		return nil, nil, fmt.Errorf("%w: not a policy file: %w", ErrMalformed, err)
	}
	return f.Statement, f.Content, nil
}
