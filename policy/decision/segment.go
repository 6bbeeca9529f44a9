package decision

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Header is the first line of a segment.
type Header struct {
	Segment uint64    `json:"segment"`        // from 1; each is one more than the one before
	Node    string    `json:"node,omitempty"` // its SPIFFE ID
	Prev    string    `json:"prev,omitempty"` // SHA-256 of the file of the segment before, in hex; absent in the first
	First   uint64    `json:"first"`          // sequence of the first event
	Last    uint64    `json:"last"`           // sequence of the last
	Count   int       `json:"count"`          // of events: where some were dropped, less than from First to Last
	From    time.Time `json:"from"`           // timestamp of the first event
	To      time.Time `json:"to"`             // timestamp of the last
}

// Bounds of a segment. A writer stays far below them.
const (
	MaxSegmentFile   = 16 << 20 // bytes of the file
	MaxSegmentText   = 64 << 20 // bytes once it is uncompressed
	MaxSegmentEvents = 1 << 16
)

// ErrSegment means that a file is no segment of a decision log, or a damaged one.
var ErrSegment = errors.New("not a segment of a decision log")

// encodeSegment returns the file of a segment. The same header and lines always give the same
// bytes with one version of Go; the digest is over the bytes, whatever they are.
func encodeSegment(h Header, lines [][]byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	for _, line := range append([][]byte{head}, lines...) {
		if _, err := z.Write(append(line[:len(line):len(line)], '\n')); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// readSegment takes the file of a segment apart, and hands on each line with the event's place.
// Errors wrap ErrSegment, or are yield's.
func readSegment(file []byte, yield func(line []byte) error) (h Header, digest [32]byte, err error) {
	if len(file) > MaxSegmentFile {
		return h, digest, fmt.Errorf("%w: %d bytes, at most %d", ErrSegment, len(file), MaxSegmentFile)
	}
	digest = statement.Digest(file)
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return h, digest, fmt.Errorf("%w: %v", ErrSegment, err)
	}
	z.Multistream(false)
	lines := bufio.NewScanner(io.LimitReader(z, MaxSegmentText))
	lines.Buffer(make([]byte, 0, 64<<10), MaxEvent+1)
	if !lines.Scan() {
		return h, digest, fmt.Errorf("%w: without a first line: %v", ErrSegment, lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
		return h, digest, fmt.Errorf("%w: its first line: %v", ErrSegment, err)
	}
	if h.Segment == 0 || h.Count < 1 || h.Count > MaxSegmentEvents || h.First == 0 || h.Last < h.First || h.Last-h.First+1 < uint64(h.Count) {
		return h, digest, fmt.Errorf("%w: its first line says segment %d with %d events from %d to %d", ErrSegment, h.Segment, h.Count, h.First, h.Last)
	}
	n := 0
	for lines.Scan() {
		if n++; n > h.Count {
			return h, digest, fmt.Errorf("%w: more events than the %d its first line says", ErrSegment, h.Count)
		}
		if err := yield(lines.Bytes()); err != nil {
			return h, digest, err
		}
	}
	if err := lines.Err(); err != nil {
		return h, digest, fmt.Errorf("%w: after %d events: %v", ErrSegment, n, err)
	}
	if n != h.Count {
		return h, digest, fmt.Errorf("%w: %d events, its first line says %d", ErrSegment, n, h.Count)
	}
	return h, digest, nil
}
