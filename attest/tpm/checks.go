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

// check is one thing that must hold of what is under judgement. Later checks rely on
// what earlier ones parsed, and on their having passed.
type check[A any] struct {
	rule  string // stable: operators, tests and trails name it
	holds func(A) error
}

// These are all checks of all evidence: "bailiwick_tpm" (hello, proof), quotes that
// stand alone, SPIRE's "tpm_devid" (payload, response). Each has a test that shows it
// evidence which only it refuses (TestEveryCheck).

// helloChecks judge the hello, when a session begins.
var helloChecks = []check[*appraisal]{
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
	[]check[*appraisal]{
		{"session-expired", (*appraisal).inTime},
		{"channel", (*appraisal).channel}, // exporter value long enough to bind a channel
		{"csr-key", (*appraisal).csrKey},  // the CSR is for the node key
		{"proof-format", (*appraisal).parseProof},
	},
	quoteSigned, nodeSigned,
	signedChecks("trail-key", tpm2.TPMSTAttestCertify, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Trail, &a.trail }),
	startsSigned, epochSigned,
	[]check[*appraisal]{
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

// quoteChecks judge Evidence. Those that an enrolment makes too have the same names.
var quoteChecks = slices.Concat(
	[]check[*appraisal]{
		{"evidence-format", (*appraisal).parseEvidence}, // size, deterministic CBOR, node key in its one spelling
		{"ak-key", (*appraisal).endorsedKey},            // the endorsed AK is one our template can give
		{"node-key", (*appraisal).endorsedNodeKey},      // the node key in use is the endorsed one
	},
	quoteSigned, nodeSigned, startsSigned, epochSigned,
	[]check[*appraisal]{
		{"ak-hierarchy", (*appraisal).akHierarchy},
		{"one-boot", (*appraisal).oneBoot},
		{"quote-bank", (*appraisal).quoteBank},
		{"quote-selection", (*appraisal).quoteSelection},
		{"quote-digest", (*appraisal).quoteDigest},
		{"node-key-name", ifResident((*appraisal).nodeName)},
		{"counter-attributes", (*appraisal).counterAttributes},
		{"quote-reset", (*appraisal).quoteReset}, // the TPM was not reset fewer times than is known of it
		{"quote-clock", (*appraisal).quoteClock}, // within one boot its clock went on
		{"counters", (*appraisal).countersGrow},  // its counters did not fall
	},
	bootChecks,
)

// devidChecks judge the opening message. SPIRE's own server makes those marked *.
var devidChecks = []check[*devidAppraisal]{
	{"devid-format", (*devidAppraisal).parse},     // * size, JSON, public areas in their one spelling
	{"devid-chain", (*devidAppraisal).devidChain}, // * leads to the DevID roots
	{"devid-key", (*devidAppraisal).devidKey},     // the certificate is of the DevID key
	{"devid-attributes", (*devidAppraisal).devidAttributes},
	{"ek-denied", common((*appraisal).ekNotDenied)},
	{"ek-attributes", common((*appraisal).ekAttributes)},
	{"ek-chain", common((*appraisal).ekChain)}, // *
	{"ek-key", common((*appraisal).ekKey)},     // *
	{"ak-attributes", (*devidAppraisal).devidAKAttributes},
	{"devid-signature", (*devidAppraisal).certifySignature}, // * by the AK
	{"devid-magic", (*devidAppraisal).certifyMagic},
	{"devid-type", (*devidAppraisal).certifyType}, // *
	{"devid-name", (*devidAppraisal).certifyName}, // * what is certified is the DevID key
}

// devidResponseChecks judge the response. Those of the binding hold if there is none.
var devidResponseChecks = []check[*devidAppraisal]{
	{"session-expired", common((*appraisal).inTime)},
	{"devid-response-format", (*devidAppraisal).parseResponse}, // *
	{"devid-nonce", (*devidAppraisal).nonceSignature},          // * signed by the DevID key
	{"credential", (*devidAppraisal).devidActivated},           // * this TPM has this EK and this AK
	{"channel", ifBound(common((*appraisal).channel))},
	{"binding-attributes", ifBound((*devidAppraisal).bindingAttributes)},
	{"binding-csr-key", ifBound(common((*appraisal).csrKey))},
	{"binding-signature", ifBound((*devidAppraisal).bindingSignature)},
	{"binding-magic", ifBound((*devidAppraisal).bindingMagic)},
	{"binding-type", ifBound((*devidAppraisal).bindingType)},
	{"binding-nonce", ifBound((*devidAppraisal).bindingNonce)},
	{"binding-name", ifBound((*devidAppraisal).bindingName)},
	{"feed-key", ifBound((*devidAppraisal).bindingFeed)},
	{"quoter-attributes", ifQuoter((*devidAppraisal).quoterAttributes)}, // the AK of ours
	{"quoter-signature", ifQuoter((*devidAppraisal).quoterSignature)},
	{"quoter-magic", ifQuoter((*devidAppraisal).quoterMagic)},
	{"quoter-type", ifQuoter((*devidAppraisal).quoterType)},
	{"quoter-nonce", ifQuoter((*devidAppraisal).quoterNonce)},
	{"quoter-name", ifQuoter((*devidAppraisal).quoterName)},
	{"quoter-hierarchy", ifQuoter((*devidAppraisal).quoterHierarchy)}, // as ak-hierarchy
}

// What the AK signed, in more than one kind of evidence.
var (
	quoteSigned  = signedChecks("quote", tpm2.TPMSTAttestQuote, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Quote, &a.quote })
	nodeSigned   = residentChecks(signedChecks("node-key", tpm2.TPMSTAttestCertify, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Node, &a.node }))
	startsSigned = signedChecks("starts", tpm2.TPMSTAttestNV, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Starts, &a.starts })
	epochSigned  = signedChecks("epoch", tpm2.TPMSTAttestNV, func(a *appraisal) (Signed, **tpm2.TPMSAttest) { return a.proof.Epoch, &a.epoch })
)

// bootChecks judge the boot log against quoted PCRs.
var bootChecks = []check[*appraisal]{
	{"boot-log-hash", (*appraisal).bootLogHash}, // the log is the one the evidence names
	{"boot-log-format", (*appraisal).bootLogFormat},
	{"boot-log-replay", (*appraisal).bootLogReplay}, // the log explains the PCRs
	{"boot-log-capped", (*appraisal).bootLogCapped}, // firmware closed its PCRs
}

// sessionSpent is the one check that is not of evidence.
const sessionSpent = "session-spent"

// Rules lists the names of all checks of "bailiwick_tpm", in the order in which they
// are made.
func Rules() []string {
	return slices.Concat(names(helloChecks), []string{sessionSpent}, names(proofChecks))
}

// QuoteRules lists the names of the checks of VerifyQuote, in their order.
func QuoteRules() []string { return names(quoteChecks) }

// DevIDRules lists the names of all checks of "tpm_devid", in their order.
func DevIDRules() []string {
	return slices.Concat(names(devidChecks), []string{sessionSpent}, names(devidResponseChecks))
}

func names[A any](checks []check[A]) (rules []string) {
	for _, c := range checks {
		rules = append(rules, c.rule)
	}
	return rules
}

// common makes a check of a DevID's evidence of one that both kinds have.
func common(holds func(*appraisal) error) func(*devidAppraisal) error {
	return func(d *devidAppraisal) error { return holds(&d.appraisal) }
}

// run makes checks until one does not hold.
func run[A any](checks []check[A], a A) error {
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
