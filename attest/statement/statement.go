// Package statement is the one signed envelope of bailiwick, and the one rule
// for the bytes inside it. Records, seals, policies, releases, trust records
// and everything else a node signs as data goes through here.
//
// A statement is an untagged COSE_Sign1 (RFC 9052 §4.2) with nothing to choose:
//
//	[ h'a10126', {}, payload bstr, signature bstr .size 64 ]
//
// The protected header is always {alg: ES256}, the unprotected header always
// empty, the payload never detached. The signature is ECDSA over P-256 and
// SHA-256 of the Sig_structure (RFC 9052 §4.4) with
//
//	external_aad = byte(len(name)) || name || version || trust domain
//
// where name and version are the statement's Type. So a statement of one type,
// version or trust domain never verifies as one of another, and no header
// chooses an algorithm or a key: the reader knows both before it reads.
//
// Payloads are deterministic CBOR (RFC 8949 §4.2.1), written by Marshal and
// read by Unmarshal. Both Parse and Unmarshal refuse whatever would not
// re-encode to the same bytes, so one meaning has one spelling. A statement is
// stored, hashed and relayed exactly as received. ECDSA signatures are
// malleable: name a statement by Digest of its payload, never of its bytes.
//
// Package statement is pure. It chooses no keys, knows no certificate, reads no
// clock; whether a key may sign a type is for the caller to know.
package statement

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// MaxSize is the largest statement Parse looks at and Sign makes, in bytes.
const MaxSize = 64 << 10

// signatureSize is that of ES256: r and s, 32 bytes each, big-endian (RFC 9053 §2.1).
const signatureSize = 64

var (
	// ErrMalformed means the bytes are not a statement, or not its only spelling.
	// They are the fault of whoever handed them over, not of whoever signed.
	ErrMalformed = errors.New("malformed statement")

	// ErrSignature means the statement was not signed by this key as this type
	// in this trust domain. The payload must not be used.
	ErrSignature = errors.New("statement signature does not verify")

	// ErrKey means a key other than ECDSA P-256 was offered. Use a P-256 key.
	ErrKey = errors.New("statement keys are ECDSA P-256")
)

// Type says what a statement states. Each owner declares its own, once.
type Type struct {
	Name    string // short, ASCII, without the project's name: "record"
	Version uint8  // grows when the payload's meaning changes
}

// String returns "name/version".
func (t Type) String() string { return fmt.Sprintf("%s/%d", t.Name, t.Version) }

// prefix is what every statement begins with: array(4), the protected header
// bstr {1: -7}, the empty unprotected map.
var prefix = []byte{0x84, 0x43, 0xa1, 0x01, 0x26, 0xa0}

// Envelope is a parsed statement whose signature is not verified yet. The zero
// value verifies under no key.
type Envelope struct {
	raw, payload, signature []byte
}

// Sign returns the statement of payload under key, a P-256 key in software or
// in a TPM. Errors wrap ErrKey, ErrMalformed (too large) or the signer's own.
func Sign(key crypto.Signer, t Type, trustDomain string, payload []byte) ([]byte, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("sign %s: %w, not %T", t, ErrKey, key.Public())
	}
	if len(payload)+signatureSize+16 > MaxSize {
		return nil, fmt.Errorf("sign %s: %w: payload of %d bytes, at most %d", t, ErrMalformed, len(payload), MaxSize-signatureSize-16)
	}
	digest := sha256.Sum256(toBeSigned(t, trustDomain, payload))
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", t, err)
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("sign %s: the signer returned no ASN.1 ECDSA signature", t)
	}
	out := make([]byte, 0, len(prefix)+len(payload)+signatureSize+8)
	out = append(out, prefix...)
	out = appendBytes(out, payload)
	out = appendHead(out, majorBytes, signatureSize)
	var sig [signatureSize]byte
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return append(out, sig[:]...), nil
}

// Parse reads one statement and keeps b; the caller must not change it after.
// It refuses, with ErrMalformed, anything Sign would not have written.
func Parse(b []byte) (Envelope, error) {
	if len(b) > MaxSize {
		return Envelope{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxSize)
	}
	rest, ok := bytes.CutPrefix(b, prefix)
	if !ok {
		return Envelope{}, fmt.Errorf("%w: does not begin as COSE_Sign1 with ES256 and no other header", ErrMalformed)
	}
	payload, rest, ok := cutString(rest, majorBytes)
	if !ok {
		return Envelope{}, fmt.Errorf("%w: payload", ErrMalformed)
	}
	signature, rest, ok := cutString(rest, majorBytes)
	if !ok || len(signature) != signatureSize || len(rest) != 0 {
		return Envelope{}, fmt.Errorf("%w: signature", ErrMalformed)
	}
	return Envelope{raw: b, payload: payload, signature: signature}, nil
}

// Verify reports whether pub signed this statement as type t in the trust
// domain. Any error wraps ErrSignature or ErrKey.
func (e Envelope) Verify(pub *ecdsa.PublicKey, t Type, trustDomain string) error {
	if e.raw == nil {
		return fmt.Errorf("%w: empty statement", ErrSignature)
	}
	if pub == nil || pub.Curve != elliptic.P256() {
		return fmt.Errorf("verify %s: %w", t, ErrKey)
	}
	digest := sha256.Sum256(toBeSigned(t, trustDomain, e.payload))
	if !ecdsa.VerifyASN1(pub, digest[:], asn1Signature(e.signature)) {
		return fmt.Errorf("%s in %s: %w", t, trustDomain, ErrSignature)
	}
	return nil
}

// asn1Signature is a signature as crypto/ecdsa wants it: a DER sequence of two integers.
func asn1Signature(signature []byte) []byte {
	out := make([]byte, 2, 2+2*(2+1+signatureSize/2))
	for _, n := range [][]byte{signature[:signatureSize/2], signature[signatureSize/2:]} {
		for len(n) > 1 && n[0] == 0 {
			n = n[1:]
		}
		sign := n[0] >> 7 // an integer whose first bit is set is negative without a zero before it
		out = append(out, 0x02, byte(len(n))+sign)
		out = append(out, make([]byte, sign)...)
		out = append(out, n...)
	}
	out[0], out[1] = 0x30, byte(len(out)-2)
	return out
}

// Payload returns the signed bytes. They mean nothing before Verify.
func (e Envelope) Payload() []byte { return e.payload }

// Bytes returns the statement exactly as it was parsed.
func (e Envelope) Bytes() []byte { return e.raw }

// Digest is SHA-256, the hash bailiwick names payloads by.
func Digest(b []byte) [32]byte { return sha256.Sum256(b) }

// toBeSigned is the Sig_structure of RFC 9052 §4.4.
func toBeSigned(t Type, trustDomain string, payload []byte) []byte {
	aad := make([]byte, 0, len(t.Name)+len(trustDomain)+2)
	aad = append(aad, byte(len(t.Name)))
	aad = append(aad, t.Name...)
	aad = append(aad, t.Version)
	aad = append(aad, trustDomain...)

	out := make([]byte, 0, len(payload)+len(aad)+32)
	out = append(out, 0x84)
	out = appendHead(out, majorText, uint64(len("Signature1")))
	out = append(out, "Signature1"...)
	out = append(out, prefix[1:5]...)
	out = appendBytes(out, aad)
	return appendBytes(out, payload)
}
