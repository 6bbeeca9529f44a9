package tpm

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxEvidence bounds the evidence of a quote, in bytes, checked before it is parsed.
const MaxEvidence = 2 << 10

const (
	quoteTag = "bailiwick_tpm/1 quote"
	epochTag = "bailiwick-epoch-v1"
)

// Evidence is a quote that stands alone: whoever knows the AK, what the quote had
// to be bound to, and the boot log can judge it, long after the enrolment. The log
// goes by hash, because it changes once a boot and is larger than all the rest.
type Evidence struct {
	Quote   Signed   `cbor:"1,keyasint"`
	PCRs    []byte   `cbor:"2,keyasint"` // SHA-256 values of PCRs 0 to 15, in order
	BootLog [32]byte `cbor:"3,keyasint"` // SHA-256 of the log that leads to them
	Starts  Signed   `cbor:"4,keyasint"` // certifies the counter of starts
	Epoch   Signed   `cbor:"5,keyasint"` // certifies the counter of epochs
	NodeKey []byte   `cbor:"6,keyasint"` // the node key in use, PKIX, P-256
	Node    Signed   `cbor:"7,keyasint"` // certifies it where it is resident; else empty
}

// EpochQualifier is what a node's regular quotes are bound to: the newest beacon
// it holds, which it could not know beforehand, its own SPIFFE ID, and the newest
// record of its own feed, so that the quote has a place there.
//
//	SHA-256(lp("bailiwick-epoch-v1") lp(beacon) lp(id) lp(head))
func EpochQualifier(beacon [32]byte, id string, head [32]byte) [32]byte {
	return sha256.Sum256(lengthPrefixed([]byte(epochTag), beacon[:], []byte(id), head[:]))
}

// quoteData is what the TPM signs with a quote that stands alone.
func quoteData(qualifying, bootLog [32]byte, nodeKey []byte) [32]byte {
	return sha256.Sum256(lengthPrefixed([]byte(quoteTag), qualifying[:], bootLog[:], nodeKey))
}

// Quote makes Evidence of PCRs 0 to 15, the counters and the resident node key, bound
// to qualifying; bootLog is the hash of this boot's log. The result is at most
// MaxEvidence bytes. Errors are those of the device.
func (k *Keys) Quote(qualifying, bootLog [32]byte) ([]byte, error) {
	pkix, err := x509.MarshalPKIXPublicKey(k.node.public)
	if err != nil {
		return nil, err
	}
	return k.evidence(pkix, k.node, qualifying, bootLog)
}

// Quote makes Evidence that names the node key in memory.
func (m *InMemory) Quote(qualifying, bootLog [32]byte) ([]byte, error) {
	return m.keys.evidence(m.pkix, nil, qualifying, bootLog)
}

// evidence quotes beside a node key; resident is nil where that is not in the TPM.
func (k *Keys) evidence(node []byte, resident *signer, qualifying, bootLog [32]byte) ([]byte, error) {
	q := quoteData(qualifying, bootLog, node)
	var made Proof
	err := k.device.Exclusive(func(t transport.TPM) error {
		return k.ak.use(t, func(ak tpm2.NamedHandle) error {
			return k.sign(t, ak, map[*signer]*Signed{resident: &made.Node}, Challenge{PCRs: quotedPCRs}, q, &made)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	return statement.Marshal(Evidence{
		Quote: made.Quote, PCRs: made.PCRs, BootLog: bootLog, Starts: made.Starts, Epoch: made.Epoch, NodeKey: node, Node: made.Node,
	})
}

// Expected is what a verifier of Evidence knows beforehand. The zero value refuses
// everything.
type Expected struct {
	AK         *ecdsa.PublicKey // as an authority endorsed it for the node
	NodeKey    [32]byte         // likewise: SHA-256 of the PKIX node key
	Qualifying [32]byte
	BootLog    []byte       // the log the evidence names, as it came
	Resets     uint32       // the TPM's reset count when the AK was endorsed: fewer are older evidence
	Previous   *QuoteClaims // of the newest evidence accepted from this AK; nil where there is none
}

// QuoteClaims is what Evidence that passed every check proves.
type QuoteClaims struct {
	PCRs     map[int][32]byte // SHA-256 bank
	Boot     eventlog.Facts
	NodeKey  *ecdsa.PublicKey // the node key in use
	Resident bool             // it is in the TPM and cannot leave it
	Counters Counters

	ResetCount, RestartCount uint32
	Firmware                 uint64 // firmwareVersion as the TPM reports it
	Clock                    time.Duration
	ClockSafe                bool // the TPM vouches that Clock did not go back
}

// VerifyQuote judges Evidence. It is pure, and takes about a tenth of a millisecond
// beside the replay of the boot log. Evidence that was accepted is refused when it
// comes again with itself as Previous only if its clock says less: telling
// repetitions apart is what Qualifying is for. The error is always a *CheckError.
func VerifyQuote(evidence []byte, want Expected) (QuoteClaims, error) {
	a := &appraisal{evidence: evidence, want: want}
	if err := run(quoteChecks, a); err != nil {
		return QuoteClaims{}, err
	}
	info := a.quote.ClockInfo
	return QuoteClaims{
		PCRs:         a.pcrs,
		Boot:         a.facts,
		NodeKey:      a.nodeKey,
		Resident:     a.resident(),
		Counters:     a.counters,
		ResetCount:   info.ResetCount,
		RestartCount: info.RestartCount,
		Firmware:     a.quote.FirmwareVersion,
		Clock:        time.Duration(info.Clock) * time.Millisecond,
		ClockSafe:    bool(info.Safe),
	}, nil
}

// BootLogOf returns the hash of the boot log that evidence names, without judging
// anything: so that the log can be looked for.
func BootLogOf(evidence []byte) ([32]byte, error) {
	var e Evidence
	if err := decode(evidence, MaxEvidence, &e); err != nil {
		return [32]byte{}, err
	}
	return e.BootLog, nil
}

// parseEvidence puts the parts where the checks of an enrolment look for them.
func (a *appraisal) parseEvidence() (err error) {
	var e Evidence
	if err := decode(a.evidence, MaxEvidence, &e); err != nil {
		return err
	}
	parts := []Signed{e.Quote, e.Starts, e.Epoch}
	if len(e.Node.Attest)+len(e.Node.Signature) > 0 {
		parts = append(parts, e.Node)
	} else {
		a.hello.NodeKey = e.NodeKey
	}
	for _, s := range parts {
		if len(s.Attest) > maxAttest || len(s.Signature) != 2*coordinate {
			return fmt.Errorf("signed structure of %d bytes with a signature of %d", len(s.Attest), len(s.Signature))
		}
	}
	if want := len(quotedPCRs) * sha256.Size; len(e.PCRs) != want {
		return fmt.Errorf("PCR values of %d bytes, want %d", len(e.PCRs), want)
	}
	a.challenge.PCRs = quotedPCRs
	a.hello.BootLogHash = e.BootLog
	a.proof = Proof{Quote: e.Quote, Node: e.Node, Starts: e.Starts, Epoch: e.Epoch, PCRs: e.PCRs, BootLog: a.want.BootLog}
	a.q = quoteData(a.want.Qualifying, e.BootLog, e.NodeKey)
	a.nodeKey, err = inMemoryKey(e.NodeKey)
	return err
}

// endorsedKey rebuilds the public area of the AK. Its name covers the attributes,
// so a key that is not restricted, or not ours, cannot have the name that the TPM
// puts into what it signs.
func (a *appraisal) endorsedKey() error {
	if a.want.AK == nil {
		return errors.New("no AK is endorsed")
	}
	var err error
	a.akKey = a.want.AK
	a.akName, err = nameOfKey(attestationKey, a.want.AK)
	return err
}

// endorsedNodeKey: the node key in use is that of the enrolment. Where it is resident,
// its name says so, as that of the AK does.
func (a *appraisal) endorsedNodeKey() error {
	pkix, err := x509.MarshalPKIXPublicKey(a.nodeKey)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(pkix); sum != a.want.NodeKey {
		return fmt.Errorf("the node key in use is %x, endorsed is %x", sum, a.want.NodeKey)
	}
	a.nodeKeyName, err = nameOfKey(residentKey, a.nodeKey)
	return err
}

// nameOfKey is the name of a key that a template can give.
func nameOfKey(template tpm2.TPMTPublic, key *ecdsa.PublicKey) ([]byte, error) {
	if err := setKey(&template, key); err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&template)
	if err != nil {
		return nil, err
	}
	return name.Buffer, nil
}

// countersGrow: both counters only grow, whatever happens to the TPM short of a clear.
func (a *appraisal) countersGrow() error {
	if before := a.want.Previous; before != nil && (a.counters.Starts < before.Counters.Starts || a.counters.Epoch < before.Counters.Epoch) {
		return fmt.Errorf("the counters say %+v, and said %+v before", a.counters, before.Counters)
	}
	return nil
}

func (a *appraisal) quoteReset() error {
	info, before := a.quote.ClockInfo, a.want.Previous
	if info.ResetCount < a.want.Resets {
		return fmt.Errorf("made in boot %d, and the AK was endorsed in boot %d", info.ResetCount, a.want.Resets)
	}
	if before != nil && (info.ResetCount < before.ResetCount ||
		info.ResetCount == before.ResetCount && info.RestartCount < before.RestartCount) {
		return fmt.Errorf("made in boot %d.%d, and the one before in boot %d.%d", info.ResetCount, info.RestartCount, before.ResetCount, before.RestartCount)
	}
	return nil
}

func (a *appraisal) quoteClock() error {
	info, before := a.quote.ClockInfo, a.want.Previous
	if before == nil || info.ResetCount != before.ResetCount || info.RestartCount != before.RestartCount {
		return nil // a reset without an orderly shutdown may set the clock back
	}
	if clock := time.Duration(info.Clock) * time.Millisecond; clock < before.Clock {
		return fmt.Errorf("the TPM's clock says %v, and said %v before", clock, before.Clock)
	}
	return nil
}
