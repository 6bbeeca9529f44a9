package root

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// IntermediateLife is how long the intermediate of a root in a device is valid: as
// long as a CA of SPIRE's. What it signs ends with it, so an identity of up to half
// of this is never cut short.
const IntermediateLife = 24 * time.Hour

// Device makes P-256 keys that never leave it, and signs SHA-256 digests with them.
// It may be slow, and is used concurrently.
type Device interface {
	// NewKey makes a key. wrapped loads it again, in this device only.
	NewKey() (wrapped []byte, key crypto.Signer, err error)
	OpenKey(wrapped []byte) (crypto.Signer, error)
}

// errInDevice marks what is wrong with the device, not with the file.
var errInDevice = errors.New("key in a device")

// NewIn is New with a key that is made in d.
func NewIn(d Device, name string, uri *url.URL, now time.Time, life time.Duration) (*Root, error) {
	wrapped, key, err := d.NewKey()
	if err != nil {
		return nil, err
	}
	r, err := selfSigned(name, uri, now, life, key)
	if err != nil {
		return nil, err
	}
	r.wrapped = wrapped
	return r, nil
}

func openIn(d Device, wrapped []byte) (crypto.Signer, error) {
	if d == nil {
		return nil, fmt.Errorf("%w: %w", errInDevice, ErrDevice)
	}
	key, err := d.OpenKey(wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInDevice, err)
	}
	return key, nil
}

// InDevice reports whether the root's key is in a device.
func (r *Root) InDevice() bool { return r.wrapped != nil }

// lower are the intermediates of a root in a device.
type lower struct {
	making      sync.Mutex // held while the device signs
	now, before atomic.Pointer[Root]
}

// intermediate is what signs for a certificate that begins at a time. Only where
// there is none yet, or it has ended, the caller waits for the device.
func (r *Root) intermediate(at time.Time) (*Root, error) {
	if low := r.lower.now.Load(); low != nil && at.Before(low.cert.NotAfter) {
		return low, nil
	}
	r.lower.making.Lock()
	defer r.lower.making.Unlock()
	if low := r.lower.now.Load(); low != nil && at.Before(low.cert.NotAfter) {
		return low, nil
	}
	return r.makeIntermediate(at)
}

// Tend makes sure that a root in a device has an intermediate in the first half of
// its life. Signing goes on meanwhile. The error is the device's, or ErrOutlived.
func (r *Root) Tend(now time.Time) error {
	if r.wrapped == nil {
		return nil
	}
	r.lower.making.Lock()
	defer r.lower.making.Unlock()
	if low := r.lower.now.Load(); low != nil && low.cert.NotAfter.Sub(now) > IntermediateLife/2 {
		return nil
	}
	_, err := r.makeIntermediate(now)
	return err
}

func (r *Root) makeIntermediate(at time.Time) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	der, err := r.sign(&x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"bailiwick"}, CommonName: "below " + r.cert.Subject.CommonName, SerialNumber: number.Text(16)},
		URIs:                  r.cert.URIs,
		NotBefore:             at.Add(-10 * time.Second),
		NotAfter:              at.Add(IntermediateLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, &key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("intermediate of %s: %w", r.cert.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	low := &Root{cert: cert, key: key}
	r.lower.before.Store(r.lower.now.Load())
	r.lower.now.Store(low)
	return low, nil
}

// Signed reports whether this root signed a certificate a short time ago, and
// returns what a verifier needs between it and the anchor. The caller must not
// change it.
func (r *Root) Signed(cert *x509.Certificate) (between []*x509.Certificate, ok bool) {
	by := func(c *x509.Certificate) bool { return bytes.Equal(c.SubjectKeyId, cert.AuthorityKeyId) }
	for _, low := range []*Root{r.lower.now.Load(), r.lower.before.Load()} {
		if low != nil && by(low.cert) {
			return []*x509.Certificate{low.cert}, true
		}
	}
	switch {
	case !by(r.cert):
		return nil, false
	case r.Nested():
		return append([]*x509.Certificate{r.cert}, r.above...), true
	}
	return nil, true
}
