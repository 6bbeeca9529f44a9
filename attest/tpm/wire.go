package tpm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Bounds of the messages, in bytes, checked before they are parsed.
const (
	MaxHello     = 16 << 10
	MaxChallenge = 4 << 10
	MaxProof     = eventlog.MaxSize + 16<<10
)

const (
	qualifyTag = "bailiwick_tpm/1"       // what the TPM signs
	macTag     = "bailiwick_tpm/1 proof" // what the activated secret signs

	minExporter = 32 // bytes; less would not bind a channel
)

// Hello opens an attestation. The public areas are TPMT_PUBLIC.
type Hello struct {
	EKCerts     [][]byte `cbor:"1,keyasint"` // DER, that of the EK first; none on TPMs without
	EKPub       []byte   `cbor:"2,keyasint"`
	AKPub       []byte   `cbor:"3,keyasint"`
	NodePub     []byte   `cbor:"4,keyasint"`
	TrailPub    []byte   `cbor:"5,keyasint"`
	FeedPub     []byte   `cbor:"6,keyasint"` // PKIX, P-256
	BootLogHash [32]byte `cbor:"7,keyasint"` // SHA-256

	// NodeKey is the node key, PKIX, P-256, where it is attested and not resident:
	// then NodePub is empty, and so is Node of the proof. A verifier that does not
	// know the field refuses the hello.
	NodeKey []byte `cbor:"8,keyasint,omitempty"`
}

// Challenge is what the verifier asks.
type Challenge struct {
	Nonce      [32]byte `cbor:"1,keyasint"`
	Credential []byte   `cbor:"2,keyasint"` // TPM2B_ID_OBJECT without its size
	Secret     []byte   `cbor:"3,keyasint"` // TPM2B_ENCRYPTED_SECRET without its size
	PCRs       []uint8  `cbor:"4,keyasint"` // ascending, below 24
}

// Proof answers a challenge.
type Proof struct {
	Quote   Signed `cbor:"1,keyasint"`
	Node    Signed `cbor:"2,keyasint"` // certifies a resident node key; else empty
	Trail   Signed `cbor:"3,keyasint"` // certifies the trail key
	Starts  Signed `cbor:"4,keyasint"` // certifies the counter of starts
	Epoch   Signed `cbor:"5,keyasint"` // certifies the counter of epochs
	PCRs    []byte `cbor:"6,keyasint"` // SHA-256 values in the order of the challenge
	BootLog []byte `cbor:"7,keyasint"`
	MAC     []byte `cbor:"8,keyasint"` // HMAC-SHA256 by the activated secret
}

// Signed is a TPMS_ATTEST and the AK's signature of it: r and s, 32 bytes each.
type Signed struct {
	Attest    []byte `cbor:"1,keyasint"`
	Signature []byte `cbor:"2,keyasint"`
}

// decode reads a message of at most most bytes.
func decode(b []byte, most int, into any) error {
	if len(b) > most {
		return fmt.Errorf("%w: %d bytes, at most %d", statement.ErrMalformed, len(b), most)
	}
	return statement.Unmarshal(b, into)
}

// qualify is the qualifying data of everything the TPM signs in one attestation.
func qualify(hello, challenge, exporter, csrSPKI []byte) [32]byte {
	return sha256.Sum256(lengthPrefixed([]byte(qualifyTag), hello, challenge, exporter, csrSPKI))
}

// macInput is what the activated secret authenticates: the proof, for this session.
func (p Proof) macInput(q [32]byte) ([]byte, error) {
	p.MAC = nil
	b, err := statement.Marshal(p)
	if err != nil {
		return nil, err
	}
	return lengthPrefixed([]byte(macTag), q[:], b), nil
}

func lengthPrefixed(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}
