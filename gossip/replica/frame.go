package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	maxFrame  = 32 << 10
	headsSize = 24 << 10 // of one heads frame: leaves room for the longest entry
)

type frameType byte

const (
	frameCert   frameType = 1
	frameRoot   frameType = 2
	frameHeads  frameType = 3
	frameWant   frameType = 4
	frameRecord frameType = 5
	frameSeal   frameType = 6
	frameHeader frameType = 7
)

const (
	partNews = 0
	partMore = 1
	partLast = 2
)

var errFrame = errors.New("malformed frame")

type headsBody struct {
	Part  uint8       `cbor:"1,keyasint"`
	Heads []headClaim `cbor:"2,keyasint"`
}

// headClaim is a head as a peer tells it: believed for asking, not for debt.
type headClaim struct {
	Origin string  `cbor:"1,keyasint"`
	Epoch  uint64  `cbor:"2,keyasint"`
	Seq    uint64  `cbor:"3,keyasint"`
	ID     feed.ID `cbor:"4,keyasint"`
	Bytes  uint64  `cbor:"5,keyasint"`
}

type wantRange struct {
	Origin string `cbor:"1,keyasint"`
	Epoch  uint64 `cbor:"2,keyasint"`
	From   uint64 `cbor:"3,keyasint"`
	To     uint64 `cbor:"4,keyasint"`
}

func frame(t frameType, body []byte) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 5+len(body)), uint32(1+len(body)))
	return append(append(out, byte(t)), body...)
}

// readFrame reads one frame; its body is the caller's to keep. Errors are the
// stream's, or wrap errFrame.
func readFrame(r *bufio.Reader) (frameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n, t := binary.BigEndian.Uint32(head[:]), frameType(head[4])
	if n == 0 || n > maxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", errFrame, n, maxFrame)
	}
	if t < frameCert || t > frameHeader {
		return 0, nil, fmt.Errorf("%w: type %d", errFrame, t)
	}
	body := make([]byte, n-1)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return t, body, nil
}

func parseHeads(b []byte) (part uint8, heads feed.Frontier, err error) {
	var body headsBody
	if err := statement.Unmarshal(b, &body); err != nil {
		return 0, nil, fmt.Errorf("%w: heads: %w", errFrame, err)
	}
	if body.Part > partLast {
		return 0, nil, fmt.Errorf("%w: heads: part %d", errFrame, body.Part)
	}
	heads = make(feed.Frontier, len(body.Heads))
	for _, h := range body.Heads {
		f, err := feedID(h.Origin, h.Epoch)
		if err != nil || h.Seq == 0 {
			return 0, nil, fmt.Errorf("%w: heads: %q epoch %d seq %d", errFrame, h.Origin, h.Epoch, h.Seq)
		}
		heads[f] = feed.Head{Seq: h.Seq, ID: h.ID, Bytes: h.Bytes}
	}
	return body.Part, heads, nil
}

func parseWant(b []byte) ([]want, error) {
	var ranges []wantRange
	if err := statement.Unmarshal(b, &ranges); err != nil {
		return nil, fmt.Errorf("%w: want: %w", errFrame, err)
	}
	out := make([]want, 0, len(ranges))
	for _, w := range ranges {
		f, err := feedID(w.Origin, w.Epoch)
		if err != nil || w.From == 0 || w.To < w.From {
			return nil, fmt.Errorf("%w: want: %q epoch %d, %d to %d", errFrame, w.Origin, w.Epoch, w.From, w.To)
		}
		out = append(out, want{f, w.From, w.To})
	}
	return out, nil
}

type want struct {
	feed     feed.FeedID
	from, to uint64
}

func feedID(origin string, epoch uint64) (feed.FeedID, error) {
	id, err := spiffeid.FromString(origin)
	if err == nil && (id.Path() == "" || epoch == 0) {
		err = errFrame
	}
	return feed.FeedID{Origin: id, Epoch: epoch}, err
}

// headsFrames encodes a frontier, in pieces that fit.
func headsFrames(news bool, f feed.Frontier) [][]byte {
	var out [][]byte
	body, size := headsBody{Part: partMore}, 0
	cut := func(part uint8) {
		if news {
			part = partNews
		}
		body.Part = part
		out = append(out, frame(frameHeads, encode(body)))
		body, size = headsBody{}, 0
	}
	for _, id := range f.Feeds() {
		h := f[id]
		entry := headClaim{id.Origin.String(), id.Epoch, h.Seq, h.ID, h.Bytes}
		if size += len(entry.Origin) + 72; size > headsSize {
			cut(partMore)
			size = len(entry.Origin) + 72
		}
		body.Heads = append(body.Heads, entry)
	}
	cut(partLast)
	return out
}

func wantFrame(w want) []byte {
	return frame(frameWant, encode([]wantRange{{w.feed.Origin.String(), w.feed.Epoch, w.from, w.to}}))
}

// encode is for our own plain structs, which always encode.
func encode(v any) []byte {
	b, err := statement.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
