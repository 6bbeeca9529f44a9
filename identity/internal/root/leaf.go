package root

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Leaf is an end-entity certificate to be: an X509-SVID (X509-SVID §4). Its key
// may sign, agree on and encipher keys, as TLS client and as TLS server.
type Leaf struct {
	Subject             []byte // name, DER
	Key                 []byte // SubjectPublicKeyInfo, DER
	URI                 string // its one URI SAN
	DNSNames            []string
	NotBefore, NotAfter time.Time
}

// maxNames bounds all names of a leaf, in bytes, so that tlv can write its length.
const maxNames = 32 << 10

// errName means a name cannot stand in a certificate.
var errName = errors.New("names in a certificate must be ASCII, and have 32 KiB together at most")

// The parts that are the same in all leaves, DER.
var (
	version     = tlv(0xa0, []byte{2, 1, 2})                                       // [0] v3
	ecdsaSHA256 = tlv(0x30, tlv(6, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2})) // RFC 5758 §3.2
	keyUsage    = extension(15, true, []byte{3, 2, 3, 0xa8})                       // bits 0, 2 and 4
	extKeyUsage = extension(37, false, tlv(0x30,
		tlv(6, []byte{0x2b, 6, 1, 5, 5, 7, 3, 1}),  // serverAuth
		tlv(6, []byte{0x2b, 6, 1, 5, 5, 7, 3, 2}))) // clientAuth
	notCA = extension(19, true, []byte{0x30, 0}) // basic constraints
)

// SignLeaf is Sign for a Leaf.
//
// What is signed is byte for byte what [crypto/x509.CreateCertificate] would sign.
// That one costs several times as much, for it also verifies its own signature,
// in case a signer is faulty. Here the signer is crypto/ecdsa in our own memory,
// its nonces are hedged by randomness, so that a fault does not give away the
// key, and whoever gets a certificate verifies it.
func (r *Root) SignLeaf(l Leaf) ([]byte, error) {
	if r.wrapped == nil {
		return r.signLeaf(l)
	}
	by, err := r.intermediate(l.NotBefore)
	if err != nil {
		return nil, err
	}
	return by.signLeaf(l)
}

func (r *Root) signLeaf(l Leaf) ([]byte, error) {
	key, ok := r.key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errInDevice // a device signs intermediates only
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	if l.NotBefore, l.NotAfter, err = r.within(l.NotBefore, l.NotAfter); err != nil {
		return nil, err
	}
	serialDER, err := asn1.Marshal(number)
	if err != nil {
		return nil, err
	}
	validity, err := asn1.Marshal(struct{ NotBefore, NotAfter time.Time }{l.NotBefore.UTC(), l.NotAfter.UTC()})
	if err != nil {
		return nil, err
	}
	var names []byte
	for _, name := range l.DNSNames {
		if names, err = addName(names, 2, name); err != nil {
			return nil, err
		}
	}
	if names, err = addName(names, 6, l.URI); err != nil {
		return nil, err
	}
	var issuer []byte // authority key identifier
	if id := r.cert.SubjectKeyId; len(id) > 0 {
		issuer = extension(35, false, tlv(0x30, tlv(0x80, id)))
	}
	tbs := tlv(0x30, version, serialDER, ecdsaSHA256, r.cert.RawSubject, validity, l.Subject, l.Key,
		tlv(0xa3, tlv(0x30, keyUsage, extKeyUsage, notCA, issuer, extension(17, false, tlv(0x30, names)))))
	digest := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	return tlv(0x30, tbs, ecdsaSHA256, tlv(3, []byte{0}, signature)), nil
}

// within cuts a validity to the root's, or returns ErrOutlived.
func (r *Root) within(from, until time.Time) (time.Time, time.Time, error) {
	if from.Before(r.cert.NotBefore) {
		from = r.cert.NotBefore
	}
	if end := r.NotAfter(); until.After(end) {
		until = end
	}
	if !from.Before(until) {
		return from, until, fmt.Errorf("%w: valid %s to %s", ErrOutlived, r.cert.NotBefore.Format(time.RFC3339), r.NotAfter().Format(time.RFC3339))
	}
	return from, until, nil
}

// addName appends a GeneralName (RFC 5280 §4.2.1.6): 2 is a DNS name, 6 a URI.
func addName(names []byte, kind byte, name string) ([]byte, error) {
	if len(names)+len(name) > maxNames || strings.ContainsFunc(name, func(r rune) bool { return r > 0x7f }) {
		return nil, fmt.Errorf("%w: %.64q", errName, name)
	}
	return append(names, tlv(0x80|kind, []byte(name))...), nil
}

// extension is one of RFC 5280 §4.2.1: id-ce n.
func extension(n byte, critical bool, value []byte) []byte {
	var mark []byte
	if critical {
		mark = []byte{1, 1, 0xff}
	}
	return tlv(0x30, tlv(6, []byte{0x55, 0x1d, n}), mark, tlv(4, value))
}

// tlv is one DER value (X.690 §8.1, §10.1) of up to 64 KiB.
func tlv(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n+4)
	switch {
	case n < 0x80:
		out = append(out, tag, byte(n))
	case n < 0x100:
		out = append(out, tag, 0x81, byte(n))
	default:
		out = append(out, tag, 0x82, byte(n>>8), byte(n))
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
