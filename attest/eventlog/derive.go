package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/google/go-attestation/attest"
)

// secureBoot derives the two secure boot facts from PCRs 2 and 7. That the
// SecureBoot variable was measured is read from digests alone; what the rest of
// PCR 7 means is left to go-attestation, which refuses any event it cannot tie
// to its digest.
func (f *Facts) secureBoot(verified map[int][]attest.Event) {
	on := slices.Contains(f.Digests[7], sha256.Sum256(efiVariable(efiGlobal, "SecureBoot", []byte{1})))
	off := slices.Contains(f.Digests[7], sha256.Sum256(efiVariable(efiGlobal, "SecureBoot", []byte{0})))
	f.SecureBootOff = off
	state, err := attest.ParseSecurebootState(append(slices.Clone(verified[2]), verified[7]...))
	switch {
	case err != nil:
		f.Untrusted.SecureBootReason = err.Error()
	case off || !on || !state.Enabled:
		f.Untrusted.SecureBootReason = "PCR 7 does not hold the SecureBoot variable with value 1"
	default:
		f.SecureBoot = true
	}
}

// The labels GRUB puts before what it measures into PCR 8 (GRUB manual, "Measured
// Boot"). The digest covers the text after the label only.
const (
	labelCommand = "grub_cmd: "
	labelKernel  = "kernel_cmdline: "
	labelModule  = "module_cmdline: "
)

// commandLines derives Strings and CommandLines from the events of PCR 8.
func (f *Facts) commandLines(events []attest.Event) {
	var all, kernels, modules []string
	loads, modloads := map[string]bool{}, map[string]bool{} // arguments of measured commands
	for i, e := range events {
		label, text, ok := measuredText(e)
		if !ok {
			f.Untrusted.CommandReason = fmt.Sprintf("event %d of PCR 8 is not a text its digest covers", i)
			return
		}
		all = append(all, text)
		switch label {
		case labelKernel:
			kernels = append(kernels, text)
		case labelModule:
			modules = append(modules, text)
		case labelCommand:
			verb, args, _ := strings.Cut(text, " ")
			switch verb {
			case "linux", "linuxefi", "linux16":
				loads[args] = true
			case "initrd", "initrdefi", "initrd16", "module", "module2", "multiboot", "multiboot2":
				modloads[args] = true
			}
			if strings.HasPrefix(text, "/") || strings.HasPrefix(text, "(") {
				f.Untrusted.CommandReason = fmt.Sprintf("event %d of PCR 8 is labelled a command and looks like a command line", i)
			}
		}
	}
	f.Strings = all
	if f.Untrusted.CommandReason != "" {
		return
	}
	for _, k := range kernels {
		if !loads[k] {
			f.Untrusted.CommandReason = fmt.Sprintf("no measured linux command has the arguments %q", k)
			return
		}
	}
	for _, m := range modules {
		if !modloads[m] {
			f.Untrusted.CommandReason = fmt.Sprintf("no measured initrd or module command has the arguments %q", m)
			return
		}
	}
	f.CommandLines = kernels
}

// measuredText returns the label and the text of an event of PCR 8, if the
// digest of the event is the hash of that text.
func measuredText(e attest.Event) (label, text string, ok bool) {
	data := strings.TrimRight(string(e.Data), "\x00")
	for _, label := range []string{labelCommand, labelKernel, labelModule} {
		if text, found := strings.CutPrefix(data, label); found && sha256.Sum256([]byte(text)) == [32]byte(e.Digest) {
			return label, text, true
		}
	}
	return "", "", false
}

// guid is an EFI_GUID as it lies in memory (UEFI specification §2.3.1).
type guid [16]byte

func newGUID(a uint32, b, c uint16, d [8]byte) (g guid) {
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], d[:])
	return g
}

var (
	efiGlobal   = newGUID(0x8be4df61, 0x93ca, 0x11d2, [8]byte{0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c})
	efiSecurity = newGUID(0xd719b2cb, 0x3d3a, 0x4596, [8]byte{0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
	efiX509     = newGUID(0xa5c059a1, 0x94e4, 0x4aa7, [8]byte{0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72})
)

// efiVariable is UEFI_VARIABLE_DATA, which is what is hashed when firmware
// measures a variable (TCG PC Client Platform Firmware Profile §10.2.6).
func efiVariable(vendor guid, name string, value []byte) []byte {
	units := utf16.Encode([]rune(name))
	out := slices.Clone(vendor[:])
	out = binary.LittleEndian.AppendUint64(out, uint64(len(units)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return append(out, value...)
}
