package tunnel

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

const (
	// MaxFrame is the largest open or status message, in bytes.
	MaxFrame = 1 << 10
	// MaxNodeFrame is the largest node statement, in bytes.
	MaxNodeFrame = 16 << 10
)

// opening is the source's first message on a stream.
type opening struct {
	Service     string `cbor:"1,keyasint"`
	Traceparent string `cbor:"2,keyasint"`
	Decision    string `cbor:"3,keyasint"`
}

type code uint8

const (
	codeOK code = iota
	codeDenied
	codeNoTarget
	codeWrongOwner
	codeBusy
	codes // how many there are
)

// status is the destination's first message on a stream.
type status struct {
	Code     code   `cbor:"1,keyasint"`
	Decision string `cbor:"2,keyasint"`
	Rule     string `cbor:"3,keyasint"`
	Text     string `cbor:"4,keyasint"`
}

// err is what a status means to the source; nil for ok.
func (s status) err() error {
	switch s.Code {
	case codeOK:
		return nil
	case codeDenied:
		return &Denied{ID: s.Decision, Rule: s.Rule, Reason: s.Text, Remote: true}
	case codeNoTarget:
		return fmt.Errorf("%w: %s", ErrNoTarget, s.Text)
	case codeWrongOwner:
		return fmt.Errorf("%w: %s", ErrWrongOwner, s.Text)
	default:
		return fmt.Errorf("%w there: %s", ErrBusy, s.Text)
	}
}

func parseOpening(b []byte) (o opening, err error) {
	if err := statement.Unmarshal(b, &o); err != nil {
		return opening{}, fmt.Errorf("%w: open: %w", ErrFrame, err)
	}
	for _, f := range []string{o.Service, o.Traceparent, o.Decision} {
		if len(f) > 255 || !printable(f) {
			return opening{}, fmt.Errorf("%w: open: %q is too long or not printable ASCII", ErrFrame, f)
		}
	}
	if o.Service == "" {
		return opening{}, fmt.Errorf("%w: open: no service", ErrFrame)
	}
	return o, nil
}

func parseStatus(b []byte) (s status, err error) {
	if err := statement.Unmarshal(b, &s); err != nil {
		return status{}, fmt.Errorf("%w: status: %w", ErrFrame, err)
	}
	if s.Code >= codes {
		return status{}, fmt.Errorf("%w: status: unknown code %d", ErrFrame, s.Code)
	}
	for _, f := range []string{s.Decision, s.Rule, s.Text} {
		if !printable(f) {
			return status{}, fmt.Errorf("%w: status: %q is not printable ASCII", ErrFrame, f)
		}
	}
	return s, nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// clean makes a text fit for a status: printable, and of at most n bytes.
func clean(s string, n int) string {
	b := []byte(s[:min(len(s), n)])
	for i, c := range b {
		if c < 0x20 || c > 0x7e {
			b[i] = '?'
		}
	}
	return string(b)
}

// writeFrame writes v as one frame of at most limit bytes, in one Write.
func writeFrame(w io.Writer, v any, limit int) error {
	body, err := statement.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > limit {
		return fmt.Errorf("%w: ours has %d bytes, at most %d", ErrFrame, len(body), limit)
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body)))
	_, err = w.Write(append(b, body...))
	return err
}

// readFrame reads one frame of at most limit bytes and nothing after it.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n == 0 || n > limit {
		return nil, fmt.Errorf("%w: %d bytes, want 1 to %d", ErrFrame, n, limit)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
