// Package eventlog turns a boot log and the PCR values a TPM signed into facts.
//
// A boot log is a TCG crypto-agile event log (TCG PC Client Platform Firmware
// Profile §10.2), as the kernel shows it in
// /sys/kernel/security/tpm0/binary_bios_measurements: a first event in the old
// format naming the digest algorithms, then
//
//	pcr u32 | type u32 | count u32 | count × (algorithm u16 | digest) | size u32 | data
//
// all little-endian. At most MaxSize bytes are looked at.
//
// What a log says is worth nothing; what a PCR holds is worth what signed it.
// Verify replays the SHA-256 digests of the log against quoted values:
//
//   - PCRs 0-9 and 14 are written by firmware, boot loader and kernel stub only.
//     Each of them must be explained by the log to the last bit, or the whole log
//     is refused (ErrReplay). A PCR that is not at its reset value and has no
//     event is not explained.
//   - PCRs 0-7 must each hold a separator (ErrUncapped): without one the firmware
//     never finished with the bank and anyone may have filled it later.
//   - Other PCRs are also extended by the running system. Those the log explains
//     are in Facts.Explained; the rest are only named, in Facts.Unexplained.
//
// Only digests are authenticated by a replay. An event's type is not, and its
// data only if its digest is the hash of that data, which for most types it is
// not. So Facts holds digests, and what can be derived so that a lie in a type
// can only remove a fact, never add or change one: a fact that is absent must be
// read as "not proven". Everything else is in Facts.Untrusted, for people.
//
// The package is pure. It does not fetch logs, judge facts (policy does), or
// verify quotes (package tpm does). Writer makes logs for software TPMs.
package eventlog

import (
	"encoding/hex"
	"errors"
)

// MaxSize is the largest boot log looked at, in bytes. Real logs are 15 to 80 KiB.
const MaxSize = 1 << 20

var (
	// ErrTooLarge means the log is over MaxSize. No firmware writes that much.
	ErrTooLarge = errors.New("boot log is larger than 1 MiB")

	// ErrMalformed means the bytes are not a crypto-agile log with SHA-256
	// digests. A TPM 1.2 or SHA-1-only log ends here too: enable the SHA-256 bank
	// in the firmware settings.
	ErrMalformed = errors.New("not a TCG crypto-agile boot log with SHA-256 digests")

	// ErrReplay means the log does not lead to the PCR values: something was
	// measured that the log hides, or the log is from another boot.
	ErrReplay = errors.New("boot log does not replay to the PCR values")

	// ErrUncapped means a firmware PCR holds no separator, so the firmware did
	// not close it before it started the operating system.
	ErrUncapped = errors.New("firmware left a PCR without its separator")
)

// Digest is a SHA-256 digest; its text form is lower-case hex.
type Digest [32]byte

// String returns lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText returns lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Facts is what a replayed log proves. The zero value proves nothing.
type Facts struct {
	// Digests are the event digests of each explained PCR, in the order in which
	// they were extended.
	Digests map[int][]Digest `json:"digests"`

	// Explained and Unexplained divide the quoted PCRs, ascending: what the log
	// accounts for in full, and what something else has extended.
	Explained   []int `json:"explained"`
	Unexplained []int `json:"unexplained"`

	// SecureBoot is true only if UEFI secure boot was on, every event of PCR 7 is
	// accounted for by its digest, keys were enrolled, one was used, and no
	// debugger was attached. SecureBootOff is true if PCR 7 proves that it was
	// off. Neither means that the log does not say.
	SecureBoot    bool `json:"secure_boot"`
	SecureBootOff bool `json:"secure_boot_off"`

	// Strings are the texts GRUB measured into PCR 8, in order: commands, kernel
	// and module command lines, without the label that tells which (the label is
	// not authenticated). Nil if any event of PCR 8 is not such a text, so a deny
	// list over Strings cannot be dodged by spoiling one event.
	Strings []string `json:"strings,omitempty"`

	// CommandLines are the kernel command lines GRUB measured, in order, kernel
	// path first. Nil unless Strings is complete and each text labelled as a
	// kernel's or a module's is also the argument of a measured "linux" or
	// "initrd" command, so relabelling cannot hide one or make one up.
	CommandLines []string `json:"command_lines,omitempty"`

	// Untrusted is for people and for hints. No decision to allow may rest on it.
	Untrusted Untrusted `json:"-"`
}

// Untrusted is what the log says and nothing proves.
type Untrusted struct {
	Events           []Event `json:"events"`
	SecureBootReason string  `json:"secure_boot_reason,omitempty"` // why SecureBoot is not proven
	CommandReason    string  `json:"command_reason,omitempty"`     // why CommandLines is not derived
}

// Event is one entry of the log as it describes itself. Only Digest is proven,
// and only for an explained PCR.
type Event struct {
	PCR    int    `json:"pcr"`
	Type   string `json:"type"`
	Digest Digest `json:"digest"`
	Text   string `json:"text,omitempty"` // printable data, at most 256 bytes
}
