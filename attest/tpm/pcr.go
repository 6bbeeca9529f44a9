package tpm

import (
	"crypto/sha256"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// quotedPCRs is what the verifier asks for: all that firmware, boot loader,
// kernel and system manager write.
var quotedPCRs = []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// pcrCount is how many PCRs a PC has (TCG PC Client Platform TPM Profile §4.6).
const pcrCount = 24

// Extend extends a PCR of the SHA-256 bank with a digest, as one more measurement
// would. Nothing but a reset of the TPM takes it back.
func (d *Device) Extend(pcr int, digest [32]byte) error {
	if pcr < 0 || pcr >= pcrCount {
		return fmt.Errorf("no PCR %d, want 0 to %d", pcr, pcrCount-1)
	}
	return d.Exclusive(func(t transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]},
			}},
		}.Execute(t)
		return err
	})
}

// PCRs reads PCRs 0 to 15 of the SHA-256 bank. Nothing proves the values to
// anybody else; that takes a quote.
func (d *Device) PCRs() (values map[int][32]byte, err error) {
	err = d.Exclusive(func(t transport.TPM) error {
		values, err = readPCRs(t, quotedPCRs)
		return err
	})
	return values, err
}

// readPCRs reads the values of the selected PCRs; a TPM gives eight at a time.
func readPCRs(t transport.TPM, pcrs []uint8) (map[int][32]byte, error) {
	values := map[int][32]byte{}
	for len(values) < len(pcrs) {
		var missing []uint8
		for _, p := range pcrs {
			if _, ok := values[int(p)]; !ok {
				missing = append(missing, p)
			}
		}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(missing)}.Execute(t)
		if err != nil {
			return nil, err
		}
		got := selected(rsp.PCRSelectionOut)
		if len(got) == 0 || len(got) != len(rsp.PCRValues.Digests) {
			return nil, fmt.Errorf("%w: the TPM has no SHA-256 PCRs %v: enable that bank in the firmware settings", ErrDevice, missing)
		}
		for i, p := range got {
			if len(rsp.PCRValues.Digests[i].Buffer) != sha256.Size {
				return nil, fmt.Errorf("%w: PCR %d has %d bytes", ErrDevice, p, len(rsp.PCRValues.Digests[i].Buffer))
			}
			values[int(p)] = [32]byte(rsp.PCRValues.Digests[i].Buffer)
		}
	}
	return values, nil
}

// selection selects PCRs of the SHA-256 bank, in three bytes.
func selection(pcrs []uint8) tpm2.TPMLPCRSelection {
	mask := make([]byte, pcrCount/8)
	for _, p := range pcrs {
		mask[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}
}

// selected lists the PCRs of the SHA-256 bank in a selection, ascending.
func selected(s tpm2.TPMLPCRSelection) (pcrs []uint8) {
	for _, bank := range s.PCRSelections {
		if bank.Hash != tpm2.TPMAlgSHA256 {
			continue
		}
		for p := range uint8(len(bank.PCRSelect) * 8) {
			if bank.PCRSelect[p/8]&(1<<(p%8)) != 0 {
				pcrs = append(pcrs, p)
			}
		}
	}
	return pcrs
}
