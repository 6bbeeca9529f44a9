package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxFile is the largest file of records, in bytes.
const MaxFile = 16 << 20

// major types of CBOR (RFC 8949 §3.1): a draft is a map, a signed record an array.
const majorMap = 5

// Draft returns r as the file that key holders sign with Add. Errors match
// ErrMalformed.
func Draft(r Record) ([]byte, error) { return encode(r) }

// Sign is Draft and Add in one, for one global key.
func Sign(r Record, key crypto.Signer) ([]byte, error) {
	payload, err := encode(r)
	if err != nil {
		return nil, err
	}
	return Add(payload, key)
}

// Read returns what a draft or a signed record says, and how many signatures it
// carries. It verifies none of them. Errors match ErrMalformed.
func Read(b []byte) (Record, int, error) {
	if isDraft(b) {
		r, err := readDraft(b)
		return r, 0, err
	}
	payload, statements, err := split(b)
	if err != nil {
		return Record{}, 0, err
	}
	r, err := read(payload)
	return r, len(statements), err
}

// Add returns a draft or a signed record with one signature more, by one global
// key; a key that has signed already adds none. Errors match ErrMalformed, or
// ErrOwnKey where the record names the key as its authority or policy key.
func Add(b []byte, key crypto.Signer) ([]byte, error) {
	r, _, err := Read(b)
	if err != nil {
		return nil, err
	}
	if r.AuthorityKey.Equal(key.Public()) || r.PolicyKey.Equal(key.Public()) {
		return nil, fmt.Errorf("%w: region %s", ErrOwnKey, r.Region)
	}
	payload := b
	if !isDraft(b) {
		if payload, _, err = split(b); err != nil {
			return nil, err
		}
	}
	s, err := statement.Sign(key, recordType, r.TrustDomain.Name(), payload)
	if err != nil {
		return nil, err
	}
	one, err := statement.Marshal([][]byte{s})
	if err != nil || isDraft(b) {
		return one, err
	}
	if signedBy(b, r, key) {
		return bytes.Clone(b), nil
	}
	return Join(b, one)
}

// Join puts the signatures of one record together.
func Join(signed ...[]byte) ([]byte, error) {
	var all [][]byte
	for _, b := range signed {
		_, statements, err := split(b)
		if err != nil {
			return nil, err
		}
		for _, s := range statements {
			if !slices.ContainsFunc(all, func(have []byte) bool { return bytes.Equal(have, s.Bytes()) }) {
				all = append(all, s.Bytes())
			}
		}
	}
	b, err := statement.Marshal(all)
	if err != nil {
		return nil, err
	}
	_, _, err = split(b) // refuses different payloads, and none
	return b, err
}

// Cut takes a file apart into its records, in their order. It verifies nothing.
// Errors match ErrMalformed; an empty file is one.
func Cut(file []byte) (records [][]byte, err error) {
	if len(file) == 0 || len(file) > MaxFile {
		return nil, fmt.Errorf("%w: a file of %d bytes, want 1 to %d", ErrMalformed, len(file), MaxFile)
	}
	for rest := file; len(rest) > 0; {
		var one []byte
		if one, rest, err = statement.First(rest); err != nil {
			return nil, fmt.Errorf("%w: record %d of the file: %w", ErrMalformed, len(records)+1, err)
		}
		if _, _, err := Read(one); err != nil {
			return nil, fmt.Errorf("record %d of the file: %w", len(records)+1, err)
		}
		records = append(records, one)
	}
	return records, nil
}

func isDraft(b []byte) bool { return len(b) > 0 && b[0]>>5 == majorMap }

func readDraft(b []byte) (Record, error) {
	if len(b) > MaxSize {
		return Record{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxSize)
	}
	return read(b)
}

// signedBy reports whether a key's signature is among those of a record.
func signedBy(b []byte, r Record, key crypto.Signer) bool {
	_, statements, err := split(b)
	pub, ok := key.Public().(*ecdsa.PublicKey)
	return err == nil && ok && slices.ContainsFunc(statements, func(s statement.Envelope) bool {
		return s.Verify(pub, recordType, r.TrustDomain.Name()) == nil
	})
}
