package roster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Message types of memberlist (net.go) and, in user messages, of serf
// (messages.go). Both numberings are part of those protocols.
const (
	msgPing         = 0
	msgIndirectPing = 1
	msgAck          = 2
	msgSuspect      = 3
	msgAlive        = 4
	msgDead         = 5
	msgPushPull     = 6
	msgCompound     = 7
	msgUser         = 8
	msgNack         = 11
	msgCRC          = 12
	msgError        = 13

	serfLeave = 0
	serfJoin  = 1
)

// The messages, with memberlist's and serf's field names, which are on the wire.
type (
	ping struct {
		SeqNo      uint32
		Node       string
		SourceAddr []byte `codec:",omitempty"`
		SourcePort uint16 `codec:",omitempty"`
		SourceNode string `codec:",omitempty"`
	}
	indirectPing struct {
		SeqNo      uint32
		Target     []byte
		Port       uint16
		Node       string
		Nack       bool
		SourceAddr []byte `codec:",omitempty"`
		SourcePort uint16 `codec:",omitempty"`
		SourceNode string `codec:",omitempty"`
	}
	ack struct {
		SeqNo   uint32
		Payload []byte
	}
	nack    struct{ SeqNo uint32 }
	suspect struct {
		Incarnation uint32
		Node        string
		From        string
	}
	alive struct {
		Incarnation uint32
		Node        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Vsn         []uint8
	}
	dead struct {
		Incarnation uint32
		Node        string
		From        string
	}
	pushPullHeader struct {
		Nodes        int
		UserStateLen int
		Join         bool
	}
	nodeState struct {
		Name        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Incarnation uint32
		State       int
		Vsn         []uint8
	}
	intent struct {
		LTime uint64
		Node  string
		Prune bool `codec:",omitempty"`
	}
)

const (
	serfProtocol = 4
	tagMagic     = 255 // serf.go: tags follow in msgpack
	recordTag    = "r"
)

// versions is the Vsn of every node: memberlist's and serf's protocol range and
// the versions in use. Ours replaces what a peer says, because one odd value
// makes memberlist refuse a whole push/pull.
var versions = []uint8{
	memberlist.ProtocolVersionMin, memberlist.ProtocolVersionMax, serf.ProtocolVersionMap[serfProtocol],
	serf.ProtocolVersionMin, serf.ProtocolVersionMax, serfProtocol,
}

// handle bounds what lengths in hostile bytes can make the decoder allocate.
var handle = func() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{}
	h.MaxInitLen = 4096
	h.MaxDepth = 8
	return h
}()

func decode(b []byte, v any) error { return codec.NewDecoderBytes(b, handle).Decode(v) }

// encode writes a message with its type byte.
func encode(kind byte, v any) []byte {
	var out []byte
	if err := codec.NewEncoderBytes(&out, handle).Encode(v); err != nil {
		return nil // only types of this file come here, and all can be written
	}
	return append([]byte{kind}, out...)
}

var errPacket = errors.New("malformed packet")

// split takes label, checksum and compound framing off a packet. Nested framing
// stays in the parts, where no judge knows it.
func split(b []byte) (label string, parts [][]byte, err error) {
	b, label, err = memberlist.RemoveLabelHeaderFromPacket(b)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", errPacket, err)
	}
	if len(b) >= 5 && b[0] == msgCRC {
		//bailiwick:check TestSWIM/checksum
		if crc32.ChecksumIEEE(b[5:]) != binary.BigEndian.Uint32(b[1:5]) {
			return "", nil, fmt.Errorf("%w: checksum", errPacket)
		}
		b = b[5:]
	}
	if len(b) == 0 {
		return "", nil, fmt.Errorf("%w: empty", errPacket)
	}
	if b[0] != msgCompound {
		return label, [][]byte{b}, nil
	}
	if len(b) < 2 || len(b) < 2+2*int(b[1]) {
		return "", nil, fmt.Errorf("%w: compound", errPacket)
	}
	lengths, rest := b[2:2+2*int(b[1])], b[2+2*int(b[1]):]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n == 0 || n > len(rest) {
			return "", nil, fmt.Errorf("%w: compound part of %d bytes", errPacket, n)
		}
		parts, rest = append(parts, rest[:n]), rest[n:]
	}
	if len(rest) != 0 {
		return "", nil, fmt.Errorf("%w: %d bytes behind the last part", errPacket, len(rest))
	}
	return label, parts, nil
}

// join is split's inverse for 1 to 255 parts.
func join(label string, parts [][]byte) []byte {
	var b bytes.Buffer
	if len(parts) == 1 {
		b.Write(parts[0])
	} else {
		b.WriteByte(msgCompound)
		b.WriteByte(byte(len(parts)))
		for _, p := range parts {
			b.Write(binary.BigEndian.AppendUint16(nil, uint16(len(p))))
		}
		for _, p := range parts {
			b.Write(p)
		}
	}
	out, err := memberlist.AddLabelHeaderToPacket(b.Bytes(), label)
	if err != nil {
		return nil // the label's length is checked at the start
	}
	return out
}

// encodeTags writes a record as serf writes tags.
func encodeTags(record []byte) []byte {
	return encode(tagMagic, map[string]string{recordTag: string(record)})
}

// decodeTags returns the record in tags that hold nothing else.
func decodeTags(meta []byte) ([]byte, error) {
	if len(meta) < 2 || len(meta) > memberlist.MetaMaxSize || meta[0] != tagMagic {
		return nil, fmt.Errorf("%w: %d bytes of tags", ErrRecord, len(meta))
	}
	var tags map[string]string
	if err := decode(meta[1:], &tags); err != nil {
		return nil, fmt.Errorf("%w: tags: %w", ErrRecord, err)
	}
	if record, ok := tags[recordTag]; ok && len(tags) == 1 {
		return []byte(record), nil
	}
	return nil, fmt.Errorf("%w: %d tags, want the record only", ErrRecord, len(tags))
}

const (
	maxStates     = 8192
	maxUserState  = 1 << 20
	maxStream     = 8 << 20
	stateAlive    = int(memberlist.StateAlive)
	stateSuspect  = int(memberlist.StateSuspect)
	stateDead     = int(memberlist.StateDead)
	stateLeft     = int(memberlist.StateLeft)
	maxStateValue = stateLeft
)

var errStream = errors.New("malformed stream")

// pushPull is a push/pull body without serf's state.
type pushPull struct {
	join   bool
	states []nodeState
}

// readPushPull reads a push/pull body after its type byte, and skips serf's state.
func readPushPull(r io.Reader) (pushPull, error) {
	dec := codec.NewDecoder(r, handle)
	var h pushPullHeader
	if err := dec.Decode(&h); err != nil {
		return pushPull{}, fmt.Errorf("%w: header: %w", errStream, err)
	}
	//bailiwick:check TestSWIM/endless_state
	if h.Nodes < 0 || h.Nodes > maxStates || h.UserStateLen < 0 || h.UserStateLen > maxUserState {
		return pushPull{}, fmt.Errorf("%w: %d nodes and %d bytes, at most %d and %d", errStream, h.Nodes, h.UserStateLen, maxStates, maxUserState)
	}
	p := pushPull{join: h.Join}
	for range h.Nodes {
		var s nodeState
		if err := dec.Decode(&s); err != nil {
			return pushPull{}, fmt.Errorf("%w: node state: %w", errStream, err)
		}
		if s.State < 0 || s.State > maxStateValue {
			return pushPull{}, fmt.Errorf("%w: node state %d", errStream, s.State)
		}
		p.states = append(p.states, s)
	}
	if _, err := io.CopyN(io.Discard, r, int64(h.UserStateLen)); err != nil {
		return pushPull{}, fmt.Errorf("%w: user state: %w", errStream, err)
	}
	return p, nil
}

// encode writes the body with its type byte.
func (p pushPull) encode() []byte {
	out := encode(msgPushPull, pushPullHeader{Nodes: len(p.states), Join: p.join})
	for _, s := range p.states {
		out = append(out, encode(0, s)[1:]...)
	}
	return out
}
