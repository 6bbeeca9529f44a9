package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
)

const (
	secretSize = 32
	coordinate = 32 // bytes of r, of s, of a coordinate on P-256
	maxAttest  = 1 << 10
)

// parseProof bounds every part; the parts themselves are read by their own checks.
func (a *appraisal) parseProof() error {
	if err := decode(a.proofBytes, MaxProof, &a.proof); err != nil {
		return err
	}
	p := &a.proof
	for i, s := range []Signed{p.Quote, p.Node, p.Trail, p.Starts, p.Epoch} {
		if i == 1 && !a.resident() {
			if len(s.Attest)+len(s.Signature) > 0 {
				return errors.New("a certification of a node key that is not in the TPM")
			}
			continue
		}
		if len(s.Attest) > maxAttest || len(s.Signature) != 2*coordinate {
			return fmt.Errorf("signed structure of %d bytes with a signature of %d", len(s.Attest), len(s.Signature))
		}
	}
	if want := len(a.challenge.PCRs) * sha256.Size; len(p.PCRs) != want {
		return fmt.Errorf("PCR values of %d bytes, want %d", len(p.PCRs), want)
	}
	if len(p.MAC) != sha256.Size {
		return fmt.Errorf("HMAC of %d bytes", len(p.MAC))
	}
	if len(p.BootLog) > eventlog.MaxSize {
		return fmt.Errorf("%w: %d bytes", eventlog.ErrTooLarge, len(p.BootLog))
	}
	return nil
}

// signedChecks are what holds of each structure the AK signed: by the AK, made by
// the TPM itself, of the kind expected, for this session.
func signedChecks(name string, kind tpm2.TPMST, part func(*appraisal) (Signed, **tpm2.TPMSAttest)) []check[*appraisal] {
	return []check[*appraisal]{
		{name + "-signature", func(a *appraisal) error {
			s, _ := part(a)
			digest := sha256.Sum256(s.Attest)
			r, v := new(big.Int).SetBytes(s.Signature[:coordinate]), new(big.Int).SetBytes(s.Signature[coordinate:])
			if !ecdsa.Verify(a.akKey, digest[:], r, v) {
				return errors.New("not signed by the AK")
			}
			return nil
		}},
		{name + "-magic", func(a *appraisal) error {
			s, _ := part(a)
			if len(s.Attest) < 6 || binary.BigEndian.Uint32(s.Attest) != uint32(tpm2.TPMGeneratedValue) {
				return errors.New("not made by a TPM: it does not start with TPM_GENERATED_VALUE")
			}
			return nil
		}},
		{name + "-type", func(a *appraisal) error {
			s, out := part(a)
			if got := tpm2.TPMST(binary.BigEndian.Uint16(s.Attest[4:])); got != kind {
				return fmt.Errorf("structure of type 0x%04x, want 0x%04x", uint16(got), uint16(kind))
			}
			attest, err := strict[tpm2.TPMSAttest](s.Attest)
			if err != nil {
				return err
			}
			*out = attest
			return nil
		}},
		{name + "-nonce", func(a *appraisal) error {
			_, out := part(a)
			if !hmac.Equal((*out).ExtraData.Buffer, a.q[:]) {
				return errors.New("signed for another session, channel or CSR key")
			}
			return nil
		}},
	}
}

// all are the structures that were read: evidence need not have each.
func (a *appraisal) all() []*tpm2.TPMSAttest {
	return slices.DeleteFunc([]*tpm2.TPMSAttest{a.quote, a.node, a.trail, a.starts, a.epoch}, func(s *tpm2.TPMSAttest) bool { return s == nil })
}

// akHierarchy: the qualified name of a primary is the hash of its hierarchy's name
// and its own (TPM 2.0 Part 1 §16.2), and only the TPM puts it into what it signs.
func (a *appraisal) akHierarchy() error {
	want := qualifiedName(a.akName)
	for _, s := range a.all() {
		if !bytes.Equal(s.QualifiedSigner.Buffer, want) {
			return errors.New("AK is not a primary key of the endorsement hierarchy")
		}
	}
	return nil
}

// qualifiedName is that of a primary key of the endorsement hierarchy.
func qualifiedName(name []byte) []byte {
	hierarchy := tpm2.HandleName(tpm2.TPMRHEndorsement)
	path := sha256.Sum256(append(bytes.Clone(hierarchy.Buffer), name...))
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), path[:]...)
}

func (a *appraisal) oneBoot() error {
	first := a.quote
	for _, s := range a.all() {
		if s.ClockInfo.ResetCount != first.ClockInfo.ResetCount || s.ClockInfo.RestartCount != first.ClockInfo.RestartCount ||
			s.FirmwareVersion != first.FirmwareVersion {
			return fmt.Errorf("signed in boot %d.%d and in boot %d.%d", first.ClockInfo.ResetCount, first.ClockInfo.RestartCount,
				s.ClockInfo.ResetCount, s.ClockInfo.RestartCount)
		}
	}
	return nil
}

func (a *appraisal) quoteBank() error {
	info, err := a.quote.Attested.Quote()
	if err != nil {
		return err
	}
	banks := info.PCRSelect.PCRSelections
	if len(banks) != 1 || banks[0].Hash != tpm2.TPMAlgSHA256 {
		return errors.New("quote is not of the SHA-256 bank alone")
	}
	return nil
}

func (a *appraisal) quoteSelection() error {
	info, err := a.quote.Attested.Quote()
	if err != nil {
		return err
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(selection(a.challenge.PCRs))) {
		return fmt.Errorf("quote is of PCRs %v, asked for %v", selected(info.PCRSelect), a.challenge.PCRs)
	}
	return nil
}

func (a *appraisal) quoteDigest() error {
	info, err := a.quote.Attested.Quote()
	if err != nil {
		return err
	}
	if digest := sha256.Sum256(a.proof.PCRs); !bytes.Equal(info.PCRDigest.Buffer, digest[:]) {
		return errors.New("PCR values are not those quoted")
	}
	a.pcrs = map[int][32]byte{}
	for i, p := range a.challenge.PCRs {
		a.pcrs[int(p)] = [32]byte(a.proof.PCRs[i*sha256.Size:])
	}
	return nil
}

func (a *appraisal) nodeName() error  { return certifies(a.node, a.nodeKeyName) }
func (a *appraisal) trailName() error { return certifies(a.trail, a.trailKeyName) }

// certifies: the TPM holds a key of this name, and the name is a hash over the
// attributes as well, so what they promise is true.
func certifies(attest *tpm2.TPMSAttest, name []byte) error {
	info, err := attest.Attested.Certify()
	if err != nil {
		return err
	}
	if !bytes.Equal(info.Name.Buffer, name) {
		return fmt.Errorf("certifies key %x, the hello names %x", info.Name.Buffer, name)
	}
	return nil
}

func (a *appraisal) counterAttributes() (err error) {
	if a.counters.Starts, err = counterValue(a.starts, startsIndex); err != nil {
		return fmt.Errorf("starts: %w", err)
	}
	if a.counters.Epoch, err = counterValue(a.epoch, epochIndex); err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	return nil
}

// counterValue: the name is a hash over index, attributes and size, so it is that of
// our counter or it is not.
func counterValue(attest *tpm2.TPMSAttest, index tpm2.TPMHandle) (uint64, error) {
	info, err := attest.Attested.NV()
	if err != nil {
		return 0, err
	}
	name, err := counterName(index)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(info.IndexName.Buffer, name.Buffer) {
		return 0, fmt.Errorf("certifies NV index %x, want the counter at 0x%08x", info.IndexName.Buffer, uint32(index))
	}
	if info.Offset != 0 || len(info.NVContents.Buffer) != counterSize {
		return 0, fmt.Errorf("certifies %d bytes at %d, want the whole counter", len(info.NVContents.Buffer), info.Offset)
	}
	return binary.BigEndian.Uint64(info.NVContents.Buffer), nil
}

func (a *appraisal) credential() error {
	input, err := a.proof.macInput(a.q)
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, a.secret)
	mac.Write(input)
	if !hmac.Equal(mac.Sum(nil), a.proof.MAC) {
		return errors.New("the proof is not authenticated by the secret only this EK and AK can open")
	}
	return nil
}

func (a *appraisal) bootLogHash() error {
	if got := sha256.Sum256(a.proof.BootLog); got != a.hello.BootLogHash {
		return fmt.Errorf("boot log hashes to %x, the evidence says %x", got, a.hello.BootLogHash)
	}
	return nil
}

func (a *appraisal) bootLogFormat() error {
	a.facts, a.bootErr = eventlog.Verify(a.proof.BootLog, a.pcrs)
	if errors.Is(a.bootErr, eventlog.ErrReplay) || errors.Is(a.bootErr, eventlog.ErrUncapped) {
		return nil // for the next checks
	}
	return a.bootErr
}

func (a *appraisal) bootLogReplay() error {
	if errors.Is(a.bootErr, eventlog.ErrUncapped) {
		return nil // for the next check
	}
	return a.bootErr
}

func (a *appraisal) bootLogCapped() error { return a.bootErr }
