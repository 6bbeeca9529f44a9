package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

const (
	maxProof = 63
	maxHead  = 64 << 10

	MaxRequest = maxHead + 8<<10
	MaxAnswer  = 8 << 10
)

// ErrWire means bytes are no request or answer of C2SP tlog-witness.
var ErrWire = errors.New("not a message of tlog-witness")

// Request asks for a cosignature: the proof shows that the head extends the one of Old
// leaves, which the witness cosigned last.
type Request struct {
	Old   uint64
	Proof [][32]byte
	Head  []byte // a signed note
}

// Encode is the body of add-checkpoint.
func (r Request) Encode() []byte {
	b := fmt.Appendf(nil, "old %d\n", r.Old)
	for _, h := range r.Proof {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	return append(append(b, '\n'), r.Head...)
}

// ParseRequest reads what Encode wrote. Nothing is verified. Errors wrap ErrWire.
func ParseRequest(b []byte) (r Request, err error) {
	if len(b) > MaxRequest {
		return r, fmt.Errorf("%w: %d bytes, at most %d", ErrWire, len(b), MaxRequest)
	}
	top, head, ok := bytes.Cut(b, []byte("\n\n"))
	lines := strings.Split(string(top), "\n")
	old, isOld := strings.CutPrefix(lines[0], "old ")
	if !ok || !isOld || len(head) == 0 || len(head) > maxHead || len(lines) > 1+maxProof {
		return r, fmt.Errorf("%w: not an old size, a proof of at most %d lines, an empty line and a head", ErrWire, maxProof)
	}
	if r.Old, err = size(old); err != nil {
		return r, err
	}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != 32 || strings.Contains(line, "\r") {
			return r, fmt.Errorf("%w: a line of the proof is no hash", ErrWire)
		}
		r.Proof = append(r.Proof, [32]byte(h))
	}
	r.Head = bytes.Clone(head)
	return r, nil
}

// size reads a number of leaves in its only spelling.
func size(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s || n >= 1<<62 {
		return 0, fmt.Errorf("%w: %.30q is no number of leaves", ErrWire, s)
	}
	return n, nil
}

// Answer is what a witness says: a status of HTTP, and its body.
type Answer struct {
	Status int
	Body   []byte
}

// Encode puts the status before the body.
func (a Answer) Encode() []byte { return append(fmt.Appendf(nil, "%d\n", a.Status), a.Body...) }

// ParseAnswer reads what Encode wrote. Errors wrap ErrWire.
func ParseAnswer(b []byte) (Answer, error) {
	status, body, ok := bytes.Cut(b, []byte("\n"))
	n, err := strconv.Atoi(string(status))
	if !ok || err != nil || n < 200 || n > 599 || len(status) != 3 || len(b) > MaxAnswer {
		return Answer{}, fmt.Errorf("%w: no status before the answer", ErrWire)
	}
	return Answer{n, bytes.Clone(body)}, nil
}

// Size is the number of leaves that a witness has cosigned, where that is its answer.
func (a Answer) Size() (uint64, bool) {
	s, ok := strings.CutSuffix(string(a.Body), "\n")
	n, err := size(s)
	return n, ok && err == nil && a.Status == http.StatusConflict
}

// lines are the signature lines of an answer or a note, each with its newline.
func lines(b []byte) (out []string) {
	for len(b) > 0 && len(out) < 64 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 || i >= maxLine {
			return out
		}
		out, b = append(out, string(b[:i+1])), b[i+1:]
	}
	return out
}
