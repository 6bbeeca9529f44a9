package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Inspection is what a TPM says of itself. Nothing proves it to anybody else.
type Inspection struct {
	Maker    string // four letters of the TCG's vendor registry
	Model    string // as its maker calls it
	Firmware string // version, in hex

	// A password is set on these hierarchies.
	OwnerPassword, EndorsementPassword, LockoutPassword bool

	// Dictionary attack lockout: Failures wrong authorizations so far, lockout at
	// MaxFailures, one forgiven every Forgives. Keys of bailiwick are exempt.
	InLockout             bool
	Failures, MaxFailures uint32
	Forgives              time.Duration

	Banks []string // hash algorithms of the banks with PCRs 0 to 15, like "sha256"

	Counters     Counters // 0: not made yet
	CounterTaken error    // ErrCounter: an index of ours holds something else
}

// The bits of TPMA_PERMANENT (TPM 2.0 Part 2 §8.6).
const (
	ownerAuthSet       = 1 << 0
	endorsementAuthSet = 1 << 1
	lockoutAuthSet     = 1 << 2
	inLockout          = 1 << 9
)

var bankNames = map[tpm2.TPMAlgID]string{
	tpm2.TPMAlgSHA1: "sha1", tpm2.TPMAlgSHA256: "sha256", tpm2.TPMAlgSHA384: "sha384", tpm2.TPMAlgSHA512: "sha512",
	tpm2.TPMAlgSHA3256: "sha3-256", tpm2.TPMAlgSHA3384: "sha3-384", tpm2.TPMAlgSHA3512: "sha3-512",
}

// Inspect asks the TPM what it is and in which state. It changes nothing.
func (d *Device) Inspect() (in Inspection, err error) {
	err = d.Exclusive(func(t transport.TPM) error {
		in = Inspection{}
		if err := in.properties(t); err != nil {
			return err
		}
		if err := in.banks(t); err != nil {
			return err
		}
		for index, n := range map[tpm2.TPMHandle]*uint64{startsIndex: &in.Counters.Starts, epochIndex: &in.Counters.Epoch} {
			*n, err = peekCounter(t, index)
			if errors.Is(err, ErrCounter) {
				in.CounterTaken = err
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return in, err
}

func (in *Inspection) properties(t transport.TPM) error {
	values := map[tpm2.TPMPT]uint32{}
	for _, group := range []tpm2.TPMPT{tpm2.TPMPTFamilyIndicator, tpm2.TPMPTPermanent} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(group), PropertyCount: 64}.Execute(t)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.TPMProperties()
		if err != nil {
			return err
		}
		for _, p := range list.TPMProperty {
			values[p.Property] = p.Value
		}
	}
	in.Maker = letters(values[tpm2.TPMPTManufacturer])
	in.Model = letters(values[tpm2.TPMPTVendorString1], values[tpm2.TPMPTVendorString2], values[tpm2.TPMPTVendorString3], values[tpm2.TPMPTVendorString4])
	in.Firmware = fmt.Sprintf("%08x%08x", values[tpm2.TPMPTFirmwareVersion1], values[tpm2.TPMPTFirmwareVersion2])
	permanent := values[tpm2.TPMPTPermanent]
	in.OwnerPassword = permanent&ownerAuthSet != 0
	in.EndorsementPassword = permanent&endorsementAuthSet != 0
	in.LockoutPassword = permanent&lockoutAuthSet != 0
	in.InLockout = permanent&inLockout != 0
	in.Failures, in.MaxFailures = values[tpm2.TPMPTLockoutCounter], values[tpm2.TPMPTMaxAuthFail]
	in.Forgives = time.Duration(values[tpm2.TPMPTLockoutInterval]) * time.Second
	return nil
}

// letters are the printable ones in a TPM's strings of four bytes each.
func letters(words ...uint32) string {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	b = slices.DeleteFunc(b, func(c byte) bool { return c < ' ' || c > '~' })
	return string(bytes.TrimSpace(b))
}

func (in *Inspection) banks(t transport.TPM) error {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t)
	if err != nil {
		return err
	}
	banks, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return err
	}
	for _, b := range banks.PCRSelections {
		if len(b.PCRSelect) < 2 || b.PCRSelect[0] != 0xff || b.PCRSelect[1] != 0xff {
			continue // not in use, or only in parts
		}
		name, known := bankNames[b.Hash]
		if !known {
			name = fmt.Sprintf("0x%04x", uint16(b.Hash))
		}
		in.Banks = append(in.Banks, name)
	}
	return nil
}

// peekCounter is readCounter that does not make the counter: it is 0 then.
func peekCounter(t transport.TPM, index tpm2.TPMHandle) (uint64, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return 0, err
	}
	written := public.Attributes.Written
	public.Attributes.Written = true
	if want := counterPublic(index); !bytes.Equal(tpm2.Marshal(public), tpm2.Marshal(want)) {
		return 0, fmt.Errorf("%w: 0x%08x", ErrCounter, uint32(index))
	}
	if !written {
		return 0, nil
	}
	return readCounter(t, index)
}

// EndorsementKey is the TPM's EK: the one its maker certified, if there is one.
type EndorsementKey struct {
	Kind         string   // RSA-2048, P-256 or P-384
	Hash         [32]byte // Keys.EKHash
	Certificates [][]byte // DER, the EK's own first; none: its maker left none in the TPM
}

// EndorsementKey finds the EK as OpenKeys does. Without a certificate it has the TPM
// make the key, in a slot that is empty again afterwards. Errors are ErrHierarchyAuth
// and those of the device.
func (d *Device) EndorsementKey() (EndorsementKey, error) {
	k := &Keys{device: d}
	if err := d.Exclusive(k.openEK); err != nil {
		return EndorsementKey{}, err
	}
	pkix, err := publicPKIX(k.ekPublic)
	if err != nil {
		return EndorsementKey{}, err
	}
	return EndorsementKey{Kind: k.ekKind.name, Hash: sha256.Sum256(pkix), Certificates: k.ekCerts}, nil
}

// CheckEK is what a node's EK would meet with at an issuer that has this Verifier: the
// error says why it would be refused.
func (v *Verifier) CheckEK(now time.Time, ek EndorsementKey) error {
	a := appraisal{verifier: v, began: now, now: now, ekHash: ek.Hash}
	a.hello.EKCerts = ek.Certificates
	return errors.Join(a.ekNotDenied(), a.ekChain())
}

// SigningTime measures what a signature of a resident key takes, with a key of the
// null hierarchy that is gone afterwards.
func (d *Device) SigningTime() (took time.Duration, err error) {
	digest := sha256.Sum256(nil)
	key := &object{build: primary(tpm2.TPMRHNull, residentKey)}
	err = d.Exclusive(func(t transport.TPM) error {
		return key.use(t, func(h tpm2.NamedHandle) error {
			began := time.Now()
			_, err := tpm2.Sign{
				KeyHandle: h, Digest: tpm2.TPM2BDigest{Buffer: digest[:]},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
			}.Execute(t)
			took = time.Since(began)
			return err
		})
	})
	return took, err
}
