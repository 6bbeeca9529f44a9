// Package trust holds trust records: what each region's identities and records
// are verified with, admitted by the global authority.
//
// # Record
//
// A trust record binds a region's label to its trust domain and roots. It is
// deterministic CBOR:
//
//	{1: region label text, 2: trust domain text,
//	 3: [1*8 X.509 root DER bstr], 4: [1*4 record root DER bstr],
//	 5: authority key bstr, 6: policy key bstr (PKIX, P-256),
//	 7: version uint (from 1), 8: not before int, 9: not after int (Unix seconds),
//	 ? 10: [1*16 {1: key ID text, 2: JWT key bstr (PKIX, P-256), 3: not after int}],
//	 ? 11: {1: threshold uint, 2: [1*16 approver key bstr (PKIX, P-256)]}}
//
// signed as a statement of type "trust/1" in the record's own trust domain, once
// by each of at least k of the n global keys. On the wire and on disk it is a
// deterministic CBOR array of those statements, all with the same payload bytes.
//
// # Files
//
// A draft is a record that nobody has signed: the payload alone. It goes from key
// holder to key holder, and each adds a signature ([Add]). A file may hold several
// records one after the other (a CBOR sequence, RFC 8742), so that cat joins files
// and [Cut] takes them apart. Nothing but the signatures in the records is signed:
// a file needs no more.
//
// # Set
//
// A [Set] holds the newest record of each region. What always holds: versions
// only grow; one version has one content; a label belongs to one trust domain
// for ever, and a trust domain to one label. After its not_after a record
// verifies nothing, although it stays in the set to be shown.
//
// A Set is an x509bundle.Source for package identity. It keeps nothing on disk
// and fetches nothing: Export is what to store, Restore what to feed it to.
package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// MaxSize is the largest trust record, with all its signatures, in bytes.
const MaxSize = 256 << 10

const (
	maxRoots, maxRecordRoots = 8, 4
	maxJWTKeys, maxKeyID     = 16, 128
	maxSignatures            = 16
	maxApprovers             = 16
)

var recordType = statement.Type{Name: "trust", Version: 1}

var labels = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

var (
	// ErrMalformed means the bytes are no trust record, or a field is wrong.
	ErrMalformed = errors.New("malformed trust record")
	// ErrUnsigned means fewer global keys than required signed the record.
	ErrUnsigned = errors.New("trust record is not signed by enough global keys: sign it with more of them, or check the global keys configured here")
	// ErrOwnKey means the key to sign with is one that the record itself names.
	ErrOwnKey = errors.New("trust record names this key as its own authority or policy key: sign it with a global key")
	// ErrExpired means the record is outside its validity.
	ErrExpired = errors.New("trust record is outside its validity: import a newer one, and check the clock")
)

// IsLabel reports whether s can be a region's label: a-z, 0-9 and inner hyphens, up to
// 32.
func IsLabel(s string) bool { return labels.MatchString(s) }

// Record is what one region is verified with. Keys and certificates must not be
// changed once it is in use.
type Record struct {
	Region              string // label, such as "east": a-z, 0-9 and inner hyphens, up to 32
	TrustDomain         spiffeid.TrustDomain
	X509Roots           []*x509.Certificate // 1 to 8, verify SVIDs
	RecordRoots         []*x509.Certificate // 1 to 4, verify epoch and authority certificates
	AuthorityKey        *ecdsa.PublicKey    // signs the region's authority objects
	PolicyKey           *ecdsa.PublicKey    // signs the region's policy
	Version             uint64              // from 1, only grows
	NotBefore, NotAfter time.Time           // whole seconds

	// JWTKeys verify the region's JWT-SVIDs elsewhere: up to 16. A key that rotates by
	// itself is known there as long as a record names it.
	JWTKeys []JWTKey

	Approvers Approvers // of releases from quarantine
}

// Approvers are people whose signatures a release from quarantine needs beside the authority's.
// The zero value is nobody: the authority decides alone. As the global keys sign the record, no
// key of the region makes them fewer.
type Approvers struct {
	Threshold int                // how many of Keys; 1 to their number
	Keys      []*ecdsa.PublicKey // up to 16, all different, none of them the region's own
}

// JWTKey verifies JWT-SVIDs.
type JWTKey struct {
	ID       string // kid; printable ASCII, at most 128 bytes
	Key      *ecdsa.PublicKey
	NotAfter time.Time // whole seconds
}

type wire struct {
	Region       string   `cbor:"1,keyasint"`
	TrustDomain  string   `cbor:"2,keyasint"`
	X509Roots    [][]byte `cbor:"3,keyasint"`
	RecordRoots  [][]byte `cbor:"4,keyasint"`
	AuthorityKey []byte   `cbor:"5,keyasint"`
	PolicyKey    []byte   `cbor:"6,keyasint"`
	Version      uint64   `cbor:"7,keyasint"`
	NotBefore    int64    `cbor:"8,keyasint"`
	NotAfter     int64    `cbor:"9,keyasint"`
	JWTKeys      []jwtKey `cbor:"10,keyasint,omitempty"`

	Approvers *approvers `cbor:"11,keyasint,omitempty"`
}

type approvers struct {
	Threshold uint64   `cbor:"1,keyasint"`
	Keys      [][]byte `cbor:"2,keyasint"`
}

type jwtKey struct {
	ID       string `cbor:"1,keyasint"`
	Key      []byte `cbor:"2,keyasint"`
	NotAfter int64  `cbor:"3,keyasint"`
}

// encode writes r as the payload that is signed. It refuses, with ErrMalformed,
// what Verify would.
func encode(r Record) ([]byte, error) {
	w := wire{Region: r.Region, TrustDomain: r.TrustDomain.Name(), Version: r.Version, NotBefore: r.NotBefore.Unix(), NotAfter: r.NotAfter.Unix()}
	for _, c := range r.X509Roots {
		w.X509Roots = append(w.X509Roots, c.Raw)
	}
	for _, c := range r.RecordRoots {
		w.RecordRoots = append(w.RecordRoots, c.Raw)
	}
	for _, k := range []struct {
		pub *ecdsa.PublicKey
		out *[]byte
	}{{r.AuthorityKey, &w.AuthorityKey}, {r.PolicyKey, &w.PolicyKey}} {
		if k.pub == nil {
			return nil, fmt.Errorf("%w: a key is missing", ErrMalformed)
		}
		der, err := x509.MarshalPKIXPublicKey(k.pub)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		*k.out = der
	}
	for _, k := range r.JWTKeys {
		if k.Key == nil {
			return nil, fmt.Errorf("%w: JWT key %q is missing", ErrMalformed, k.ID)
		}
		der, err := x509.MarshalPKIXPublicKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("%w: JWT key %q: %w", ErrMalformed, k.ID, err)
		}
		w.JWTKeys = append(w.JWTKeys, jwtKey{k.ID, der, k.NotAfter.Unix()})
	}
	if a := r.Approvers; a.Threshold != 0 || len(a.Keys) > 0 {
		w.Approvers = &approvers{Threshold: uint64(max(a.Threshold, 0))}
		for i, k := range a.Keys {
			if k == nil {
				return nil, fmt.Errorf("%w: approver %d is missing", ErrMalformed, i)
			}
			der, err := x509.MarshalPKIXPublicKey(k)
			if err != nil {
				return nil, fmt.Errorf("%w: approver %d: %w", ErrMalformed, i, err)
			}
			w.Approvers.Keys = append(w.Approvers.Keys, der)
		}
	}
	payload, err := statement.Marshal(w)
	if err != nil {
		return nil, err
	}
	_, err = read(payload)
	return payload, err
}

// Verify reads b and checks that at least threshold different keys of global
// signed it, and that it is valid at now. Errors match ErrMalformed,
// ErrUnsigned or ErrExpired. No threshold, no keys: nothing verifies.
func Verify(b []byte, global []*ecdsa.PublicKey, threshold int, now time.Time) (Record, error) {
	r, err := verify(b, global, threshold)
	if err != nil {
		return Record{}, err
	}
	if !r.ValidAt(now) {
		return Record{}, fmt.Errorf("%w: region %s version %d, valid %s to %s", ErrExpired, r.Region, r.Version,
			r.NotBefore.UTC().Format(time.RFC3339), r.NotAfter.UTC().Format(time.RFC3339))
	}
	return r, nil
}

// ValidAt reports whether now is within the record's validity.
func (r Record) ValidAt(now time.Time) bool {
	return r.Version != 0 && !now.Before(r.NotBefore) && now.Before(r.NotAfter)
}

func verify(b []byte, global []*ecdsa.PublicKey, threshold int) (Record, error) {
	if isDraft(b) {
		r, err := readDraft(b)
		if err != nil {
			return Record{}, err
		}
		return Record{}, fmt.Errorf("%w: region %s: it is a draft that nobody has signed: bailiwick trust sign", ErrUnsigned, r.Region)
	}
	payload, statements, err := split(b)
	if err != nil {
		return Record{}, err
	}
	r, err := read(payload)
	if err != nil {
		return Record{}, err
	}
	var signed []*ecdsa.PublicKey
	for _, key := range global {
		if key == nil || slices.ContainsFunc(signed, func(k *ecdsa.PublicKey) bool { return k.Equal(key) }) {
			continue
		}
		if slices.ContainsFunc(statements, func(s statement.Envelope) bool {
			return s.Verify(key, recordType, r.TrustDomain.Name()) == nil
		}) {
			signed = append(signed, key)
		}
	}
	if threshold < 1 || len(signed) < threshold {
		return Record{}, fmt.Errorf("%w: region %s: %d of the %d required", ErrUnsigned, r.Region, len(signed), threshold)
	}
	return r, nil
}

// split takes a record's statements apart; all have the payload it returns.
func split(b []byte) ([]byte, []statement.Envelope, error) {
	if len(b) > MaxSize {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxSize)
	}
	var raw [][]byte
	if err := statement.Unmarshal(b, &raw); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(raw) == 0 || len(raw) > maxSignatures {
		return nil, nil, fmt.Errorf("%w: %d signatures, want 1 to %d", ErrMalformed, len(raw), maxSignatures)
	}
	all := make([]statement.Envelope, len(raw))
	for i, s := range raw {
		e, err := statement.Parse(s)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: signature %d: %w", ErrMalformed, i, err)
		}
		if all[i] = e; !bytes.Equal(e.Payload(), all[0].Payload()) {
			return nil, nil, fmt.Errorf("%w: signature %d is over another record", ErrMalformed, i)
		}
	}
	return all[0].Payload(), all, nil
}

func read(payload []byte) (Record, error) {
	bad := func(format string, args ...any) (Record, error) {
		return Record{}, fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
	}
	var w wire
	if err := statement.Unmarshal(payload, &w); err != nil {
		return bad("%w", err)
	}
	td, err := spiffeid.TrustDomainFromString(w.TrustDomain)
	switch {
	case err != nil || td.Name() != w.TrustDomain:
		return bad("trust domain %q: write it in lower case, without spiffe://", w.TrustDomain)
	case !IsLabel(w.Region):
		return bad("region label %q: want a-z, 0-9 and inner hyphens, up to 32", w.Region)
	case w.Version == 0:
		return bad("version 0: versions start at 1")
	case w.NotBefore >= w.NotAfter:
		return bad("not_after is not after not_before")
	case len(w.X509Roots) == 0 || len(w.X509Roots) > maxRoots:
		return bad("%d X.509 roots, want 1 to %d", len(w.X509Roots), maxRoots)
	case len(w.RecordRoots) == 0 || len(w.RecordRoots) > maxRecordRoots:
		return bad("%d record roots, want 1 to %d", len(w.RecordRoots), maxRecordRoots)
	}
	r := Record{Region: w.Region, TrustDomain: td, Version: w.Version, NotBefore: time.Unix(w.NotBefore, 0), NotAfter: time.Unix(w.NotAfter, 0)}
	for i, der := range w.X509Roots {
		c, err := x509.ParseCertificate(der)
		if err != nil || !c.IsCA {
			return bad("X.509 root %d is not a CA certificate", i)
		}
		r.X509Roots = append(r.X509Roots, c)
	}
	for i, der := range w.RecordRoots {
		c, err := x509.ParseCertificate(der)
		if err != nil || !epoch.IsRoot(c, td) {
			return bad("record root %d is not a record root of %s", i, td)
		}
		r.RecordRoots = append(r.RecordRoots, c)
	}
	if r.AuthorityKey, err = publicKey(w.AuthorityKey); err != nil {
		return bad("authority key: %w", err)
	}
	if r.PolicyKey, err = publicKey(w.PolicyKey); err != nil {
		return bad("policy key: %w", err)
	}
	if r.JWTKeys, err = readJWTKeys(w.JWTKeys); err != nil {
		return bad("%w", err)
	}
	if r.Approvers, err = readApprovers(w.Approvers, r.AuthorityKey, r.PolicyKey); err != nil {
		return bad("%w", err)
	}
	return r, nil
}

// readApprovers reads whose approval releases need. The region's own keys are none: they are where
// a thief of the authority's key is.
func readApprovers(w *approvers, own ...*ecdsa.PublicKey) (a Approvers, err error) {
	if w == nil {
		return Approvers{}, nil
	}
	if n := len(w.Keys); n == 0 || n > maxApprovers || w.Threshold < 1 || w.Threshold > uint64(n) {
		return Approvers{}, fmt.Errorf("a threshold of %d with %d approvers: want 1 to %d approvers, and a threshold of 1 to all of them", w.Threshold, n, maxApprovers)
	}
	a.Threshold = int(w.Threshold)
	for i, der := range w.Keys {
		key, err := publicKey(der)
		if err != nil {
			return Approvers{}, fmt.Errorf("approver %d: %w", i, err)
		}
		for _, other := range append(slices.Clone(a.Keys), own...) {
			if key.Equal(other) {
				return Approvers{}, fmt.Errorf("approver %d: its key is that of another approver, of the authority or of the policy: give each a key of its own", i)
			}
		}
		a.Keys = append(a.Keys, key)
	}
	return a, nil
}

func readJWTKeys(all []jwtKey) (out []JWTKey, err error) {
	if len(all) > maxJWTKeys {
		return nil, fmt.Errorf("%d JWT keys, at most %d", len(all), maxJWTKeys)
	}
	for i, w := range all {
		printable := !strings.ContainsFunc(w.ID, func(r rune) bool { return r <= ' ' || r > '~' })
		twice := slices.ContainsFunc(out, func(k JWTKey) bool { return k.ID == w.ID })
		if w.ID == "" || len(w.ID) > maxKeyID || !printable || twice {
			return nil, fmt.Errorf("JWT key %d: ID %.200q: want 1 to %d printable characters, each ID once", i, w.ID, maxKeyID)
		}
		key, err := publicKey(w.Key)
		if err != nil {
			return nil, fmt.Errorf("JWT key %q: %w", w.ID, err)
		}
		out = append(out, JWTKey{w.ID, key, time.Unix(w.NotAfter, 0)})
	}
	return out, nil
}

func publicKey(der []byte) (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("want P-256, not %T", key)
	}
	return pub, nil
}
