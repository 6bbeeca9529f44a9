package roster

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxRecord is the largest signed node record, in bytes. Tags hold 512.
const MaxRecord = 400

var recordType = statement.Type{Name: "node", Version: 1}

var (
	// ErrRecord means a node record is malformed or its signature is wrong.
	ErrRecord = errors.New("node record does not verify")

	// ErrUnknownKey is for a KeyFunc to wrap: the certificate is not known here
	// yet. It blames nobody.
	ErrUnknownKey = errors.New("epoch certificate of the node record is not known yet")
)

// Record is what a node signs about itself for others to find it.
type Record struct {
	ID    spiffeid.ID
	Addr  netip.AddrPort // of its link
	Epoch uint64
	Cert  [32]byte // SHA-256 of its epoch certificate, DER
}

// KeyFunc returns the public key in the epoch certificate with a hash, if that is
// known and belongs to this node and epoch.
type KeyFunc func(id spiffeid.ID, epoch uint64, cert [32]byte) (*ecdsa.PublicKey, error)

type recordWire struct {
	ID    string   `cbor:"1,keyasint"`
	Addr  string   `cbor:"2,keyasint"`
	Epoch uint64   `cbor:"3,keyasint"`
	Cert  [32]byte `cbor:"4,keyasint"`
}

// SignRecord signs a record with the node's epoch key. It fails when the ID is so
// long that the record passes MaxRecord.
func SignRecord(key crypto.Signer, r Record) ([]byte, error) {
	payload, err := statement.Marshal(recordWire{r.ID.String(), r.Addr.String(), r.Epoch, r.Cert})
	if err != nil {
		return nil, err
	}
	if _, err := parseRecord(payload); err != nil {
		return nil, err
	}
	b, err := statement.Sign(key, recordType, r.ID.TrustDomain().Name(), payload)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes, at most %d: the SPIFFE ID is too long", ErrRecord, len(b), MaxRecord)
	}
	return b, nil
}

// OpenRecord reads and verifies a record. Errors wrap ErrRecord or, then with the
// record returned unverified, ErrUnknownKey.
func OpenRecord(b []byte, keys KeyFunc) (Record, error) {
	env, r, err := splitRecord(b)
	if err != nil {
		return Record{}, err
	}
	if keys == nil {
		return r, fmt.Errorf("%w: no keys", ErrUnknownKey)
	}
	key, err := keys(r.ID, r.Epoch, r.Cert)
	if errors.Is(err, ErrUnknownKey) {
		return r, err
	}
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := env.Verify(key, recordType, r.ID.TrustDomain().Name()); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return r, nil
}

func splitRecord(b []byte) (statement.Envelope, Record, error) {
	if len(b) > MaxRecord {
		return statement.Envelope{}, Record{}, fmt.Errorf("%w: %d bytes, at most %d", ErrRecord, len(b), MaxRecord)
	}
	env, err := statement.Parse(b)
	if err != nil {
		return statement.Envelope{}, Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	r, err := parseRecord(env.Payload())
	return env, r, err
}

func parseRecord(payload []byte) (Record, error) {
	var w recordWire
	if err := statement.Unmarshal(payload, &w); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	id, err := spiffeid.FromString(w.ID)
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	addr, err := netip.ParseAddrPort(w.Addr)
	if err != nil || addr.String() != w.Addr || addr.Port() == 0 || addr.Addr().Zone() != "" {
		return Record{}, fmt.Errorf("%w: address %q", ErrRecord, w.Addr)
	}
	if w.Epoch == 0 {
		return Record{}, fmt.Errorf("%w: epoch 0", ErrRecord)
	}
	return Record{id, addr, w.Epoch, w.Cert}, nil
}
