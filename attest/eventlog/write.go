package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
)

// Event types of the TCG PC Client Platform Firmware Profile §10.4.1, as far as
// a software boot needs them.
const (
	typeSeparator      = 0x04
	typeVersion        = 0x08 // EV_S_CRTM_VERSION
	typeIPL            = 0x0d
	typeVariable       = 0x80000001
	typeBootVariable   = 0x80000002
	typeBootApp        = 0x80000003
	typeAction         = 0x80000007
	typeAuthority      = 0x800000e0
	algorithmSHA256    = 0x000b
	specIDEventVersion = "Spec ID Event03\x00"
)

// Writer writes a crypto-agile log with SHA-256 digests. The zero value is ready.
type Writer struct{ events []byte }

// Measure adds an event whose digest is the hash of its data.
func (w *Writer) Measure(pcr int, kind uint32, data []byte) { w.measure(pcr, kind, data, data) }

func (w *Writer) measure(pcr int, kind uint32, measured, data []byte) {
	digest := sha256.Sum256(measured)
	out := binary.LittleEndian.AppendUint32(w.events, uint32(pcr))
	out = binary.LittleEndian.AppendUint32(out, kind)
	out = binary.LittleEndian.AppendUint32(out, 1)
	out = binary.LittleEndian.AppendUint16(out, algorithmSHA256)
	out = append(out, digest[:]...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	w.events = append(out, data...)
}

// Bytes returns the log so far, with its header.
func (w *Writer) Bytes() []byte {
	spec := []byte(specIDEventVersion)
	spec = binary.LittleEndian.AppendUint32(spec, 0) // platform class: client
	spec = append(spec, 0, 2, 0, 2)                  // version 2.0, errata 0, 64-bit UINTN
	spec = binary.LittleEndian.AppendUint32(spec, 1)
	spec = binary.LittleEndian.AppendUint16(spec, algorithmSHA256)
	spec = binary.LittleEndian.AppendUint16(spec, sha256.Size)
	spec = append(spec, 0) // no vendor data
	out := binary.LittleEndian.AppendUint32(nil, 0)
	out = binary.LittleEndian.AppendUint32(out, noAction)
	out = append(out, make([]byte, 20)...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(spec)))
	return append(append(out, spec...), w.events...)
}

// Boot describes the boot of a software node. Every field is optional.
type Boot struct {
	Firmware    string // firmware version
	Loader      string // what stands for the boot loader's bytes
	Kernel      string // kernel path; "/vmlinuz" if empty
	CommandLine string // kernel arguments, after the path
	SecureBoot  []byte // DER of the certificate that signs firmware keys and loader; nil: secure boot off
}

// Log writes a boot of that description as firmware, GRUB and kernel would.
func (b Boot) Log() []byte {
	kernel := b.Kernel
	if kernel == "" {
		kernel = "/vmlinuz"
	}
	line := kernel
	if b.CommandLine != "" {
		line += " " + b.CommandLine
	}
	var w Writer
	w.Measure(0, typeVersion, []byte("bailiwick software firmware "+b.Firmware))
	w.secureBootVariables(b.SecureBoot)
	w.Measure(1, typeBootVariable, efiVariable(efiGlobal, "BootOrder", []byte{0, 0}))
	w.Measure(4, typeAction, []byte("Calling EFI Application from Boot Option"))
	for pcr := range 8 {
		w.Measure(pcr, typeSeparator, []byte{0, 0, 0, 0})
	}
	if b.SecureBoot != nil {
		w.Measure(7, typeAuthority, efiVariable(efiSecurity, "db", signatureData(b.SecureBoot)))
	}
	w.measure(4, typeBootApp, []byte("loader "+b.Loader), []byte(b.Loader))
	w.measure(9, typeIPL, []byte("content of "+kernel), []byte(kernel+"\x00"))
	w.measure(8, typeIPL, []byte("linux "+line), []byte(labelCommand+"linux "+line+"\x00"))
	w.measure(8, typeIPL, []byte(line), []byte(labelKernel+line+"\x00"))
	w.Measure(5, typeAction, []byte("Exit Boot Services Invocation"))
	w.Measure(5, typeAction, []byte("Exit Boot Services Returned with Success"))
	return w.Bytes()
}

func (w *Writer) secureBootVariables(cert []byte) {
	var on byte
	var list []byte
	if cert != nil {
		on, list = 1, signatureList(cert)
	}
	w.Measure(7, typeVariable, efiVariable(efiGlobal, "SecureBoot", []byte{on}))
	w.Measure(7, typeVariable, efiVariable(efiGlobal, "PK", list))
	w.Measure(7, typeVariable, efiVariable(efiGlobal, "KEK", list))
	w.Measure(7, typeVariable, efiVariable(efiSecurity, "db", list))
	w.Measure(7, typeVariable, efiVariable(efiSecurity, "dbx", nil))
}

// signatureData is EFI_SIGNATURE_DATA: an owner, which is nobody, and a
// certificate (UEFI specification §32.4.1).
func signatureData(cert []byte) []byte { return append(make([]byte, 16), cert...) }

// signatureList is an EFI_SIGNATURE_LIST of one certificate.
func signatureList(cert []byte) []byte {
	data := signatureData(cert)
	out := append([]byte(nil), efiX509[:]...)
	out = binary.LittleEndian.AppendUint32(out, uint32(28+len(data)))
	out = binary.LittleEndian.AppendUint32(out, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}
