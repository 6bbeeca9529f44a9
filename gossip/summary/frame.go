package summary

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

const (
	frameSummary   = 1
	frameAck       = 2
	frameStatement = 3

	maxFrame = statement.MaxSize
	maxAck   = 4 << 10
)

// limit is the largest body of a frame kind; 0 for kinds that do not exist.
func limit(kind byte) uint32 {
	switch kind {
	case frameSummary:
		return MaxSize
	case frameAck:
		return maxAck
	case frameStatement:
		return maxFrame
	}
	return 0
}

func appendFrame(b []byte, kind byte, body []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// readFrame reads one frame, whose size it bounds before it makes room for it.
func readFrame(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind = head[0]
	size := binary.BigEndian.Uint32(head[1:])
	if size == 0 || size > limit(kind) {
		return 0, nil, fmt.Errorf("%w: frame of kind %d with %d bytes, at most %d", ErrMalformed, kind, size, limit(kind))
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return kind, body, nil
}

type ack struct {
	Gateway string `cbor:"1,keyasint"`
	Epoch   uint64 `cbor:"2,keyasint"`
	Number  uint64 `cbor:"3,keyasint"`
}

func encodeAck(s Summary) ([]byte, error) {
	return statement.Marshal(ack{s.Gateway.String(), s.Epoch, s.Number})
}

// parseAck returns epoch and number acknowledged; it must be about self.
func parseAck(body []byte, self spiffeid.ID) (epoch, number uint64, err error) {
	var a ack
	if err := statement.Unmarshal(body, &a); err != nil {
		return 0, 0, fmt.Errorf("%w: ack: %w", ErrMalformed, err)
	}
	if a.Gateway != self.String() {
		return 0, 0, fmt.Errorf("%w: ack for %q, this is %s", ErrMalformed, a.Gateway, self)
	}
	return a.Epoch, a.Number, nil
}

// payloadOf returns the signed bytes in a carried summary that verified.
func payloadOf(raw []byte) []byte {
	var c carried
	if statement.Unmarshal(raw, &c) != nil {
		return nil
	}
	env, err := statement.Parse(c.Statement)
	if err != nil {
		return nil
	}
	return env.Payload()
}
