package cache

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// ErrKeyElsewhere means an SVID was saved without its key, which lives in the
// TPM: use With.
var ErrKeyElsewhere = errors.New("the key of this SVID is not in the cache")

// Contents is everything that is cached.
type Contents struct {
	SavedAt     int64    `cbor:"1,keyasint"` // Unix seconds; set by Save
	SVIDs       []SVID   `cbor:"2,keyasint"`
	Trust       [][]byte `cbor:"3,keyasint"` // signed trust records (package trust)
	Entries     []Entry  `cbor:"4,keyasint"`
	Epochs      [][]byte `cbor:"5,keyasint"` // epoch certificates, DER: current, spare
	Class       string   `cbor:"6,keyasint"` // limits class of the node
	Endorsement []byte   `cbor:"7,keyasint"` // of the AK (package endorse); empty without a TPM
	TPMEpoch    uint64   `cbor:"8,keyasint"` // the TPM's epoch counter when the spare was given
	InUse       uint64   `cbor:"9,keyasint"` // the epoch the node writes in, 0 for none

	// Renews says that the agent SVID is renewed with itself, not by attesting again.
	Renews bool `cbor:"10,keyasint,omitempty"`

	// JWTKeys is what the region's issuers sign JWT-SVIDs with, a JWK set; empty: not
	// known yet.
	JWTKeys []byte `cbor:"11,keyasint,omitempty"`
}

// Time returns when the contents were saved.
func (c Contents) Time() time.Time { return time.Unix(c.SavedAt, 0) }

// SVID is an X509-SVID.
type SVID struct {
	Entry string `cbor:"1,keyasint"` // ID of its entry, or the caller's own name for it
	Chain []byte `cbor:"2,keyasint"` // DER certificates one after the other, leaf first
	Key   Key    `cbor:"3,keyasint"` // empty where the key is elsewhere
	Hint  string `cbor:"4,keyasint"`
}

// Entry is an issuer's entry: which local processes may have which identity.
type Entry struct {
	ID        string   `cbor:"1,keyasint"`
	SPIFFEID  string   `cbor:"2,keyasint"`
	ParentID  string   `cbor:"3,keyasint"`
	Selectors []string `cbor:"4,keyasint"`
	DNSNames  []string `cbor:"5,keyasint"`
	Hint      string   `cbor:"6,keyasint"`
	TTL       int64    `cbor:"7,keyasint"` // seconds
	Revision  int64    `cbor:"8,keyasint"`
}

// Key is an unencrypted PKCS#8 private key. It does not print.
type Key []byte

const redacted = "redacted"

// Format prints "redacted", whatever the verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue logs "redacted".
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON writes "redacted".
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// FromSVID returns svid in the form that is cached. A key that is not in memory,
// as one in a TPM, is left out.
func FromSVID(entry string, svid *x509svid.SVID) (SVID, error) {
	out := SVID{Entry: entry, Hint: svid.Hint}
	for _, c := range svid.Certificates {
		out.Chain = append(out.Chain, c.Raw...)
	}
	if inMemory(svid.PrivateKey) {
		key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
		if err != nil {
			return SVID{}, fmt.Errorf("key of %s: %w", svid.ID, err)
		}
		out.Key = key
	}
	return out, nil
}

func inMemory(key crypto.Signer) bool {
	switch key.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
		return true
	}
	return false
}

// X509 returns the SVID, or ErrKeyElsewhere.
func (s SVID) X509() (*x509svid.SVID, error) {
	if len(s.Key) == 0 {
		return nil, ErrKeyElsewhere
	}
	svid, err := x509svid.ParseRaw(s.Chain, s.Key)
	if err != nil {
		return nil, fmt.Errorf("cached SVID of entry %q: %w", s.Entry, err)
	}
	svid.Hint = s.Hint
	return svid, nil
}

// With returns the SVID with a key that is not in the cache. It fails if the key
// is not the certificate's.
func (s SVID) With(key crypto.Signer) (*x509svid.SVID, error) {
	certs, err := x509.ParseCertificates(s.Chain)
	if err != nil {
		return nil, fmt.Errorf("cached SVID of entry %q: %w", s.Entry, err)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("cached SVID of entry %q has no certificate", s.Entry)
	}
	id, err := x509svid.IDFromCert(certs[0])
	if err != nil {
		return nil, fmt.Errorf("cached SVID of entry %q: %w", s.Entry, err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("cached SVID of %s is for another key: this is another TPM, or its keys were made again", id)
	}
	return &x509svid.SVID{ID: id, Certificates: certs, PrivateKey: key, Hint: s.Hint}, nil
}
