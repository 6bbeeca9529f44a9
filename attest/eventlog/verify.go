package eventlog

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-attestation/attest"
)

// firmware is the set of PCRs nothing but firmware, boot loader and kernel stub
// extends. The rest belong to IMA (10), systemd (11-13, 15) and applications.
var firmware = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}

// The digests of the two separators that say "all is well" (TCG PC Client
// Platform Firmware Profile §10.4.1); the third one, of the value 1, says error.
var separators = [2]Digest{sha256.Sum256([]byte{0, 0, 0, 0}), sha256.Sum256([]byte{255, 255, 255, 255})}

const noAction = 3 // EV_NO_ACTION extends nothing

// Verify replays log against the SHA-256 values of the quoted PCRs, which must
// include 0 to 9 and 14 and come from a verified quote. The error is one of
// ErrTooLarge, ErrMalformed, ErrReplay and ErrUncapped, wrapped with the detail.
func Verify(log []byte, pcrs map[int][32]byte) (Facts, error) {
	parsed, err := parse(log)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Digests: map[int][]Digest{}}
	verified := map[int][]attest.Event{}
	for _, pcr := range slices.Sorted(maps.Keys(pcrs)) {
		events, err := replay(parsed, pcr, pcrs[pcr])
		if err != nil {
			if slices.Contains(firmware, pcr) {
				return Facts{}, err
			}
			f.Unexplained = append(f.Unexplained, pcr)
			continue
		}
		f.Explained = append(f.Explained, pcr)
		verified[pcr] = events
		for _, e := range events {
			f.Digests[pcr] = append(f.Digests[pcr], Digest(e.Digest))
		}
	}
	for _, pcr := range firmware {
		if _, ok := verified[pcr]; !ok {
			return Facts{}, fmt.Errorf("%w: PCR %d was not quoted", ErrReplay, pcr)
		}
	}
	for pcr := range 8 {
		if !slices.Contains(f.Digests[pcr], separators[0]) && !slices.Contains(f.Digests[pcr], separators[1]) {
			return Facts{}, fmt.Errorf("%w: PCR %d", ErrUncapped, pcr)
		}
	}
	f.Untrusted.Events = describe(parsed)
	f.secureBoot(verified)
	f.commandLines(verified[8])
	return f, nil
}

// Measurements returns what the log says was extended, in order. Nothing of it
// is verified: it is for filling a software TPM, and for showing a log.
func Measurements(log []byte) ([]Event, error) {
	parsed, err := parse(log)
	if err != nil {
		return nil, err
	}
	return describe(parsed), nil
}

func parse(log []byte) (*attest.EventLog, error) {
	if len(log) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(log))
	}
	if err := checkHeader(log); err != nil {
		return nil, err
	}
	parsed, err := attest.ParseEventLog(log)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if !slices.Contains(parsed.Algs, attest.HashSHA256) {
		return nil, fmt.Errorf("%w: its header names %v", ErrMalformed, parsed.Algs)
	}
	return parsed, nil
}

// checkHeader bounds the algorithm list of the first event. The parser walks
// that list for every digest and allocates what each entry asks for, so a long
// list of repeated entries would buy a hostile node minutes of our time.
func checkHeader(log []byte) error {
	const (
		algorithms = 8 + 20 + 4 + 24 // event header, SHA-1 digest, size, fixed part of the Spec ID event
		most       = 8
	)
	if len(log) < algorithms+4 {
		return fmt.Errorf("%w: %d bytes is less than a header", ErrMalformed, len(log))
	}
	n := binary.LittleEndian.Uint32(log[algorithms:])
	if n == 0 || n > most || len(log) < algorithms+4+int(n)*4 {
		return fmt.Errorf("%w: header names %d algorithms, at most %d are known", ErrMalformed, n, most)
	}
	seen := map[uint16]bool{}
	for i := range int(n) {
		alg := binary.LittleEndian.Uint16(log[algorithms+4+i*4:])
		if seen[alg] {
			return fmt.Errorf("%w: header names algorithm 0x%04x twice", ErrMalformed, alg)
		}
		seen[alg] = true
	}
	return nil
}

// replay returns the events that lead to exactly this value of the PCR.
func replay(log *attest.EventLog, pcr int, value [32]byte) ([]attest.Event, error) {
	events, err := log.Verify([]attest.PCR{{Index: pcr, Digest: value[:], DigestAlg: crypto.SHA256}})
	if err != nil {
		return nil, fmt.Errorf("%w: PCR %d is %x", ErrReplay, pcr, value)
	}
	if len(events) == 0 && value != reset(pcr) {
		return nil, fmt.Errorf("%w: PCR %d is %x and the log has no event for it", ErrReplay, pcr, value)
	}
	for _, e := range events {
		if len(e.Digest) != sha256.Size {
			return nil, fmt.Errorf("%w: PCR %d has an event without a SHA-256 digest", ErrReplay, pcr)
		}
	}
	return events, nil
}

// reset is the value of a PCR after power-up (TCG PC Client Platform TPM Profile §4.6.1).
func reset(pcr int) (value [32]byte) {
	if pcr >= 17 && pcr <= 22 {
		copy(value[:], bytes.Repeat([]byte{255}, len(value)))
	}
	return value
}

func describe(log *attest.EventLog) []Event {
	var out []Event
	for _, e := range log.Events(attest.HashSHA256) {
		if e.Type == noAction || len(e.Digest) != sha256.Size {
			continue
		}
		out = append(out, Event{PCR: e.Index, Type: e.Type.String(), Digest: Digest(e.Digest), Text: printable(e.Data)})
	}
	return out
}

// printable keeps data that is text, so that a log can be shown without letting
// it write to the terminal.
func printable(data []byte) string {
	const most = 256
	s := strings.TrimRight(string(data[:min(len(data), most)]), "\x00")
	for _, r := range s {
		if r < ' ' || r > '~' {
			return ""
		}
	}
	return s
}
