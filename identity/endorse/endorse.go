// Package endorse is the AK endorsement: the region's word that a TPM
// attestation key belongs to a node, so that any peer can check that node's
// later quotes without asking the issuer.
//
// It is a statement of type "ak-endorsement/1" in the node's trust domain,
// signed by the region's authority key (trust.Record.AuthorityKey), over
// deterministic CBOR:
//
//	{1: node SPIFFE ID text, 2: EK hash bstr .size 32, 3: AK public bstr (PKIX, P-256),
//	 4: node key hash bstr .size 32, 5: trail key hash bstr .size (0 / 32),
//	 6: TPM maker text, 7: reset count uint, 8: expires int (Unix seconds)}
//
// Hashes are SHA-256 of PKIX public keys. The reset count is the TPM's when it
// was attested: a quote with a smaller one is older than the endorsement.
//
// An endorsement says who holds the key, not that its machine is in good
// order. Package endorse is pure.
package endorse

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxSize is the largest endorsement Verify looks at, in bytes.
const MaxSize = 2 << 10

const maxMaker = 64

var endorsementType = statement.Type{Name: "ak-endorsement", Version: 1}

var (
	// ErrMalformed means the bytes are no endorsement, or a field is wrong.
	ErrMalformed = errors.New("malformed AK endorsement")
	// ErrUntrusted means the authority key did not sign it for this trust domain.
	ErrUntrusted = errors.New("AK endorsement is not signed by the region's authority: the trust record here is out of date, or the endorsement is false")
	// ErrOther means it endorses another node, or another trail key of it.
	ErrOther = errors.New("the endorsement is for another node or another trail key")
	// ErrExpired means it is no longer valid. The node gets a new one by enrolling again.
	ErrExpired = errors.New("AK endorsement has expired: the node must enrol again")
)

// Endorsement binds an attestation key to a node. The zero value endorses
// nothing.
type Endorsement struct {
	ID         spiffeid.ID // the node
	EKHash     [32]byte
	AK         *ecdsa.PublicKey
	NodeKey    [32]byte // SHA-256 of the PKIX node key
	TrailKey   []byte   // SHA-256 of the PKIX trail key, or empty
	Maker      string   // of the TPM, as its EK certificate says; at most 64 bytes
	ResetCount uint32
	Expires    time.Time // whole seconds
}

type wire struct {
	ID         string `cbor:"1,keyasint"`
	EKHash     []byte `cbor:"2,keyasint"`
	AK         []byte `cbor:"3,keyasint"`
	NodeKey    []byte `cbor:"4,keyasint"`
	TrailKey   []byte `cbor:"5,keyasint"`
	Maker      string `cbor:"6,keyasint"`
	ResetCount uint32 `cbor:"7,keyasint"`
	Expires    int64  `cbor:"8,keyasint"`
}

// Sign makes the statement with the region's authority key.
func Sign(authority crypto.Signer, e Endorsement) ([]byte, error) {
	payload, err := Encode(e)
	if err != nil {
		return nil, err
	}
	return statement.Sign(authority, endorsementType, e.ID.TrustDomain().Name(), payload)
}

// Encode is e without a signature, for whoever is to sign it.
func Encode(e Endorsement) ([]byte, error) {
	if e.AK == nil {
		return nil, fmt.Errorf("%w: AK: %w", ErrMalformed, statement.ErrKey)
	}
	ak, err := x509.MarshalPKIXPublicKey(e.AK)
	if err != nil {
		return nil, fmt.Errorf("%w: AK: %w", ErrMalformed, err)
	}
	payload, err := statement.Marshal(wire{
		ID: e.ID.String(), EKHash: e.EKHash[:], AK: ak, NodeKey: e.NodeKey[:], TrailKey: e.TrailKey,
		Maker: e.Maker, ResetCount: e.ResetCount, Expires: e.Expires.Unix(),
	})
	if err != nil {
		return nil, err
	}
	_, err = Decode(payload)
	return payload, err
}

// Verify reads b and checks it as of now under the authority key of td. Errors
// match ErrMalformed, ErrUntrusted or ErrExpired.
func Verify(b []byte, authority *ecdsa.PublicKey, td spiffeid.TrustDomain, now time.Time) (Endorsement, error) {
	if len(b) > MaxSize {
		return Endorsement{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxSize)
	}
	env, err := statement.Parse(b)
	if err != nil {
		return Endorsement{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	e, err := Decode(env.Payload())
	if err != nil {
		return Endorsement{}, err
	}
	if authority == nil || e.ID.TrustDomain() != td || env.Verify(authority, endorsementType, td.Name()) != nil {
		return Endorsement{}, fmt.Errorf("%w: %s", ErrUntrusted, e.ID)
	}
	if !now.Before(e.Expires) {
		return Endorsement{}, fmt.Errorf("%w: %s, %s", ErrExpired, e.ID, e.Expires.UTC().Format(time.RFC3339))
	}
	return e, nil
}

// VerifyTrailKey verifies that b, an endorsement that was valid at a time, says that a key in
// PKIX DER is the trail key of a node. The zero time stands for whenever it was valid: whose
// a key is does not end with the endorsement, only the issuer's readiness to say so. Errors
// match those of Verify, or ErrOther.
func VerifyTrailKey(b []byte, authority *ecdsa.PublicKey, node spiffeid.ID, key []byte, at time.Time) (Endorsement, error) {
	if at.IsZero() && len(b) <= MaxSize {
		if env, err := statement.Parse(b); err == nil {
			if claimed, err := Decode(env.Payload()); err == nil {
				at = claimed.Expires.Add(-time.Second)
			}
		}
	}
	e, err := Verify(b, authority, node.TrustDomain(), at)
	if err != nil {
		return e, err
	}
	if hash := statement.Digest(key); e.ID != node || !bytes.Equal(e.TrailKey, hash[:]) {
		return Endorsement{}, fmt.Errorf("%w: it is of %s, and trail key %x", ErrOther, e.ID, e.TrailKey)
	}
	return e, nil
}

// Decode reads what Encode wrote, which proves nothing: it is for Sign to be given. The
// error matches ErrMalformed.
func Decode(payload []byte) (Endorsement, error) {
	bad := func(field string, err error) (Endorsement, error) {
		return Endorsement{}, fmt.Errorf("%w: %s: %w", ErrMalformed, field, err)
	}
	var w wire
	if err := statement.Unmarshal(payload, &w); err != nil {
		return bad("payload", err)
	}
	id, err := spiffeid.FromString(w.ID)
	if err == nil {
		_, err = identity.ParseNode(id)
	}
	if err != nil {
		return bad("id", err)
	}
	size := errors.New("wrong size")
	switch {
	case len(w.EKHash) != 32:
		return bad("EK hash", size)
	case len(w.NodeKey) != 32:
		return bad("node key hash", size)
	case len(w.TrailKey) != 0 && len(w.TrailKey) != 32:
		return bad("trail key hash", size)
	case len(w.Maker) > maxMaker:
		return bad("maker", size)
	}
	key, err := x509.ParsePKIXPublicKey(w.AK)
	if err != nil {
		return bad("AK", err)
	}
	ak, ok := key.(*ecdsa.PublicKey)
	if !ok || ak.Curve != elliptic.P256() {
		return bad("AK", statement.ErrKey)
	}
	return Endorsement{
		ID: id, EKHash: [32]byte(w.EKHash), AK: ak, NodeKey: [32]byte(w.NodeKey), TrailKey: w.TrailKey,
		Maker: w.Maker, ResetCount: w.ResetCount, Expires: time.Unix(w.Expires, 0),
	}, nil
}
