package tpm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxAge is how long after its Begin a session may Finish.
const MaxAge = time.Minute

// ErrRefused is what every CheckError is: the evidence was judged and found wanting.
// Nothing the caller does makes the same evidence pass.
var ErrRefused = errors.New("node evidence refused")

// CheckError says which check of the table refused the evidence.
type CheckError struct {
	Check  string // stable rule name, one of Rules, e.g. "quote-nonce"
	Detail string // what was found, for people

	cause error
}

// Error names the rule and what it found.
func (e *CheckError) Error() string {
	return fmt.Sprintf("%v by check %s: %s", ErrRefused, e.Check, e.Detail)
}

// Is makes every CheckError an ErrRefused.
func (e *CheckError) Is(target error) bool { return target == ErrRefused }

// Unwrap returns the cause, such as eventlog.ErrReplay.
func (e *CheckError) Unwrap() error { return e.cause }

// Verifier judges node evidence. The zero value refuses all of it. A Verifier may
// be used concurrently as long as nobody changes it.
type Verifier struct {
	// Roots are the makers whose TPMs are believed in. Nil means none: there are no
	// defaults, and the system's roots are never used.
	Roots *x509.CertPool

	// Intermediates are certificates between Roots and EKs that TPMs do not carry.
	Intermediates *x509.CertPool

	// AllowEK admits TPMs by their EK hash that have no certificate under Roots.
	AllowEK map[[32]byte]bool

	// DenyEK refuses TPMs by their EK hash, certificate or not. It wins over AllowEK.
	DenyEK map[[32]byte]bool
}

// Claims is what evidence that passed every check proves. Whether that is good
// enough is policy's to say.
type Claims struct {
	EKHash     [32]byte // SHA-256 of the EK's PKIX public key
	EKChain    bool     // the EK's certificate leads to Roots; false for an AllowEK without one
	EKMaker    string   // of the certificate, e.g. "id:494E5443"; empty without EKChain
	EKModel    string
	EKFirmware string
	EKSerial   string // serial number of the certificate, lower-case hex

	AKPublic []byte // TPMT_PUBLIC of the AK, which verifies later quotes
	AKPub    *ecdsa.PublicKey
	NodeKey  *ecdsa.PublicKey // the CSR's
	Resident bool             // NodeKey is in the TPM and cannot leave it; else it is in memory, and bound to this evidence
	TrailKey *ecdsa.PublicKey // resident
	FeedKey  *ecdsa.PublicKey // in memory, bound to this evidence

	PCRs     map[int][32]byte // SHA-256 bank
	Boot     eventlog.Facts
	Counters Counters

	ResetCount, RestartCount uint32
	Firmware                 uint64 // firmwareVersion as the TPM reports it
	Clock                    time.Duration
	ClockSafe                bool // the TPM vouches that Clock did not go back

	At time.Time // of Finish
}

// Session is one attestation in progress. It holds a secret and cannot be stored.
type Session struct {
	state     appraisal
	challenge []byte
	spent     atomic.Bool
}

// Begin judges a hello and, if it passes, makes the challenge. The error is always a
// *CheckError.
func (v *Verifier) Begin(now time.Time, hello []byte) (*Session, error) {
	s := &Session{state: appraisal{verifier: v, began: now, now: now, helloBytes: slices.Clone(hello)}}
	if err := run(helloChecks, &s.state); err != nil {
		return nil, err
	}
	a := &s.state
	a.secret = make([]byte, secretSize)
	rand.Read(a.secret) // crypto/rand does not fail
	rand.Read(a.challenge.Nonce[:])
	a.challenge.PCRs = slices.Clone(quotedPCRs)
	var err error
	a.challenge.Credential, a.challenge.Secret, err = tpm2.CreateCredential(rand.Reader, a.ekWrap, a.akName, a.secret)
	if err != nil {
		return nil, refuse("ek-attributes", err)
	}
	if s.challenge, err = statement.Marshal(a.challenge); err != nil {
		return nil, refuse("hello-format", err)
	}
	a.challengeBytes = s.challenge
	return s, nil
}

// Challenge is the message for the node, at most MaxChallenge bytes.
func (s *Session) Challenge() []byte { return slices.Clone(s.challenge) }

// Finish judges a proof. exporter is the TLS exporter value of the channel the
// hello came by, csrSPKI the PKIX key of the CSR that came with the proof. A session
// finishes once, whatever the outcome, and within MaxAge. The error is always a
// *CheckError.
func (s *Session) Finish(now time.Time, proof, exporter, csrSPKI []byte) (Claims, error) {
	if s.spent.Swap(true) {
		return Claims{}, refuse(sessionSpent, errors.New("the session has finished before"))
	}
	a := &s.state
	a.now, a.proofBytes, a.exporter, a.csrSPKI = now, proof, exporter, csrSPKI
	a.q = qualify(a.helloBytes, a.challengeBytes, exporter, csrSPKI)
	if err := run(proofChecks, a); err != nil {
		return Claims{}, err
	}
	return a.claims(), nil
}

func (a *appraisal) claims() Claims {
	info := a.quote.ClockInfo
	return Claims{
		EKHash:       a.ekHash,
		EKChain:      a.ekCert != nil,
		EKMaker:      a.ekName.maker,
		EKModel:      a.ekName.model,
		EKFirmware:   a.ekName.version,
		EKSerial:     a.ekName.serial,
		AKPublic:     slices.Clone(a.hello.AKPub),
		AKPub:        a.akKey,
		NodeKey:      a.nodeKey,
		Resident:     a.resident(),
		TrailKey:     a.trailKey,
		FeedKey:      a.feedKey,
		PCRs:         a.pcrs,
		Boot:         a.facts,
		Counters:     a.counters,
		ResetCount:   info.ResetCount,
		RestartCount: info.RestartCount,
		Firmware:     a.quote.FirmwareVersion,
		Clock:        time.Duration(info.Clock) * time.Millisecond,
		ClockSafe:    bool(info.Safe),
		At:           a.now,
	}
}
