package tpm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // SPIRE names DevIDs by it; no promise rests on it
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// DevIDVerifier judges the evidence of SPIRE's node attestation "tpm_devid". The
// zero value refuses all of it. It may be used concurrently as long as nobody
// changes it.
type DevIDVerifier struct {
	// DevIDRoots are the authorities that certify DevID keys. Nil means none.
	DevIDRoots *x509.CertPool

	// EK says which TPMs are believed in. A TPM without EK certificate is refused,
	// AllowEK or not: the message has no room for it.
	EK Verifier
}

// DevIDClaims is what evidence that passed every check proves.
type DevIDClaims struct {
	Fingerprint string // lower-case hex SHA-1 of the DevID certificate: SPIRE's name of the machine
	Subject     string // common names of the DevID certificate
	Issuer      string
	Above       []string // fingerprints of the certificates above it, root last
	EKHash      [32]byte
	EKMaker     string

	// NodeKey is the CSR's key, FeedKey the one the node asks to be bound with it;
	// both nil unless the node proved that the CSR's key lives in the same TPM.
	NodeKey, FeedKey *ecdsa.PublicKey

	// AK signs the node's quotes (VerifyQuote); nil unless the node proved that it lives
	// in the same TPM too.
	AK *ecdsa.PublicKey
}

// DevIDSession is one attestation in progress. It holds a secret.
type DevIDSession struct {
	state     devidAppraisal
	challenge []byte
	spent     atomic.Bool
}

// Begin judges an opening message and, if it passes, makes the challenge. The error
// is always a *CheckError.
func (v *DevIDVerifier) Begin(now time.Time, payload []byte) (*DevIDSession, error) {
	ek := v.EK
	ek.AllowEK = nil
	s := &DevIDSession{state: devidAppraisal{appraisal: appraisal{verifier: &ek, began: now, now: now}, roots: v.DevIDRoots, bytes: payload}}
	d := &s.state
	if err := run(devidChecks, d); err != nil {
		return nil, err
	}
	d.secret, d.nonce = make([]byte, secretSize), make([]byte, secretSize)
	rand.Read(d.secret) // crypto/rand does not fail
	rand.Read(d.nonce)
	credential, hidden, err := tpm2.CreateCredential(rand.Reader, d.ekWrap, d.akName, d.secret)
	if err != nil {
		return nil, refuse("ek-attributes", err)
	}
	s.challenge, err = json.Marshal(devidChallenge{DevID: d.nonce, CredActivation: &devidCredential{Credential: credential, Secret: hidden}})
	if err != nil {
		return nil, refuse("devid-format", err)
	}
	return s, nil
}

// Challenge is the message for the node.
func (s *DevIDSession) Challenge() []byte { return slices.Clone(s.challenge) }

// Finish judges a response. exporter and csrSPKI are as in Session.Finish; they
// matter only to a key binding. The error is always a *CheckError.
func (s *DevIDSession) Finish(now time.Time, response, exporter, csrSPKI []byte) (DevIDClaims, error) {
	if s.spent.Swap(true) {
		return DevIDClaims{}, refuse(sessionSpent, errors.New("the session has finished before"))
	}
	d := &s.state
	d.now, d.bytes, d.exporter, d.csrSPKI = now, response, exporter, csrSPKI
	if err := run(devidResponseChecks, d); err != nil {
		return DevIDClaims{}, err
	}
	c := DevIDClaims{
		Fingerprint: fingerprint(d.devid), Subject: d.devid.Subject.CommonName, Issuer: d.devid.Issuer.CommonName,
		EKHash: d.ekHash, EKMaker: d.ekName.maker, NodeKey: d.nodeKey, FeedKey: d.feedKey, AK: d.quoterKey,
	}
	for _, above := range d.chain[1:] {
		c.Above = append(c.Above, fingerprint(above))
	}
	return c, nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw)
	return hex.EncodeToString(sum[:])
}
