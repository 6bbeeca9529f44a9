package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
)

// check is one thing that must hold. Later checks rely on what earlier ones parsed
// into the appraisal, and on their having passed.
type check struct {
	rule  string // stable: operators, tests and trails name it
	holds func(a *appraisal) error
}

// helloChecks judge the hello, when a session begins.
var helloChecks = []check{
	{"hello-format", (*appraisal).parseHello}, // size, deterministic CBOR, public areas in their one spelling
	{"ek-denied", (*appraisal).ekNotDenied},   // EK is not on the deny list
	{"ek-attributes", (*appraisal).ekAttributes},
	{"ek-chain", (*appraisal).ekChain}, // certificate under the roots, for an EK; or EK on the allow list
	{"ek-key", (*appraisal).ekKey},     // that certificate is of this EK
	{"ak-attributes", (*appraisal).akAttributes},
	{"node-key-form", (*appraisal).nodeForm}, // a key in memory is on P-256, and in its one spelling
	{"node-key-attributes", ifResident((*appraisal).nodeAttributes)},
	{"trail-key-attributes", (*appraisal).trailAttributes},
	{"feed-key", (*appraisal).parseFeedKey},
	{"keys-distinct", (*appraisal).keysDistinct}, // one key, one purpose
}

// proofChecks judge the proof, when a session finishes.
var proofChecks = slices.Concat(
	[]check{
		{"session-expired", (*appraisal).inTime},
		{"channel", (*appraisal).channel}, // exporter value long enough to bind a channel
		{"csr-key", (*appraisal).csrKey},  // the CSR is for the node key
		{"proof-format", (*appraisal).parseProof},
	},
	signedChecks("quote", tpm2.TPMSTAttestQuote, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Quote, &a.quote }),
	residentChecks(signedChecks("node-key", tpm2.TPMSTAttestCertify, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Node, &a.node })),
	signedChecks("trail-key", tpm2.TPMSTAttestCertify, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Trail, &a.trail }),
	signedChecks("starts", tpm2.TPMSTAttestNV, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Starts, &a.starts }),
	signedChecks("epoch", tpm2.TPMSTAttestNV, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Epoch, &a.epoch }),
	[]check{
		{"ak-hierarchy", (*appraisal).akHierarchy}, // AK is a primary of the endorsement hierarchy
		{"one-boot", (*appraisal).oneBoot},         // nothing was reset between the signatures
		{"quote-bank", (*appraisal).quoteBank},     // SHA-256, and nothing else
		{"quote-selection", (*appraisal).quoteSelection},
		{"quote-digest", (*appraisal).quoteDigest},           // the PCR values are those quoted
		{"node-key-name", ifResident((*appraisal).nodeName)}, // what is certified is the node key of the hello
		{"trail-key-name", (*appraisal).trailName},
		{"counter-attributes", (*appraisal).counterAttributes}, // what is certified are our two counters
		{"credential", (*appraisal).credential},                // HMAC: this TPM has this EK and this AK
	},
	bootChecks,
)

// bootChecks judge the boot log against quoted PCRs.
var bootChecks = []check{
	{"boot-log-hash", (*appraisal).bootLogHash}, // the log is the one the evidence names
	{"boot-log-format", (*appraisal).bootLogFormat},
	{"boot-log-replay", (*appraisal).bootLogReplay}, // the log explains the PCRs
	{"boot-log-capped", (*appraisal).bootLogCapped}, // firmware closed its PCRs
}

// sessionSpent is the one check that is not of evidence.
const sessionSpent = "session-spent"

// Rules lists the names of all checks, in the order in which they are made.
func Rules() []string {
	var rules []string
	for _, c := range helloChecks {
		rules = append(rules, c.rule)
	}
	rules = append(rules, sessionSpent)
	for _, c := range proofChecks {
		rules = append(rules, c.rule)
	}
	return rules
}

// run makes checks until one does not hold.
func run(checks []check, a *appraisal) error {
	for _, c := range checks {
		if err := c.holds(a); err != nil {
			return refuse(c.rule, err)
		}
	}
	return nil
}

func refuse(rule string, err error) *CheckError {
	return &CheckError{Check: rule, Detail: err.Error(), cause: err}
}

// appraisal is what is known of one attestation so far. Each field is set by the
// check that vouches for it.
type appraisal struct {
	verifier   *Verifier
	began, now time.Time

	helloBytes                            []byte
	hello                                 Hello
	ekPublic, akPublic, nodePub, trailPub *tpm2.TPMTPublic
	ekHash                                [32]byte
	ekCert                                *x509.Certificate // nil unless it leads to the roots
	ekName                                ekName
	ekWrap                                tpm2.LabeledEncapsulationKey
	akName, nodeKeyName, trailKeyName     []byte
	akKey, nodeKey, trailKey, feedKey     *ecdsa.PublicKey

	challenge      Challenge
	challengeBytes []byte
	secret         []byte

	proofBytes, exporter, csrSPKI     []byte
	q                                 [32]byte
	proof                             Proof
	quote, node, trail, starts, epoch *tpm2.TPMSAttest
	pcrs                              map[int][32]byte
	counters                          Counters
	facts                             eventlog.Facts
	bootErr                           error

	evidence []byte // of a quote that stands alone
	want     Expected
}

func (a *appraisal) inTime() error {
	if age := a.now.Sub(a.began); age < 0 || age > MaxAge {
		return fmt.Errorf("the session is %v old, at most %v", age, MaxAge)
	}
	return nil
}

func (a *appraisal) channel() error {
	if len(a.exporter) < minExporter {
		return fmt.Errorf("exporter value of %d bytes, at least %d", len(a.exporter), minExporter)
	}
	return nil
}

func (a *appraisal) csrKey() error {
	spki, err := x509.MarshalPKIXPublicKey(a.nodeKey)
	if err != nil {
		return err
	}
	if !bytes.Equal(spki, a.csrSPKI) {
		return errors.New("the CSR is not for the node key of the hello")
	}
	return nil
}
