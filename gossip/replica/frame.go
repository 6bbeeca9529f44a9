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
	frameHead = 5 // length and type
	maxFrame  = 32 << 10
	headsSize = 24 << 10 // of one heads frame: leaves room for the longest entry
	maxOrigin = 2048     // bytes of a SPIFFE ID, as in records
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
	frameNodes  frameType = 8
	frameLeaves frameType = 9
	frameEnd    frameType = 10
	frameTerms  frameType = 11
	frameFetch  frameType = 12
	framePrune  frameType = 13
)

var errFrame = errors.New("malformed frame")

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
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	t, n, err := parseHead(head)
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return t, body, nil
}

// parseHead reads what precedes a body, and how long that is.
func parseHead(head [frameHead]byte) (t frameType, body int, err error) {
	n, t := binary.BigEndian.Uint32(head[:]), frameType(head[4])
	//bailiwick:check TestOversizedFrame
	if n == 0 || n > maxFrame {
		return 0, 0, fmt.Errorf("%w: %d bytes, at most %d", errFrame, n, maxFrame)
	}
	//bailiwick:check TestUnknownFrame
	if t < frameCert || t > framePrune {
		return 0, 0, fmt.Errorf("%w: type %d", errFrame, t)
	}
	return t, int(n) - 1, nil
}

func parseHeads(b []byte) (feed.Frontier, error) {
	var body []headClaim
	if err := statement.Unmarshal(b, &body); err != nil {
		return nil, fmt.Errorf("%w: heads: %w", errFrame, err)
	}
	return frontierOf(body)
}

func frontierOf(claims []headClaim) (feed.Frontier, error) {
	heads := make(feed.Frontier, len(claims))
	for _, h := range claims {
		f, err := feedID(h.Origin, h.Epoch)
		if err != nil || h.Seq == 0 {
			return nil, fmt.Errorf("%w: heads: %q epoch %d seq %d", errFrame, h.Origin, h.Epoch, h.Seq)
		}
		heads[f] = feed.Head{Seq: h.Seq, ID: h.ID, Bytes: h.Bytes}
	}
	return heads, nil
}

func claimOf(f feed.FeedID, h feed.Head) headClaim {
	return headClaim{f.Origin.String(), f.Epoch, h.Seq, h.ID, h.Bytes}
}

// claimBytes is the most that a claim takes in a frame.
func claimBytes(f feed.FeedID) int { return len(f.Origin.String()) + 72 }

func parseWant(b []byte) ([]want, error) {
	var ranges []wantRange
	if err := statement.Unmarshal(b, &ranges); err != nil {
		return nil, fmt.Errorf("%w: want: %w", errFrame, err)
	}
	//bailiwick:check TestWantOfEverything/many_ranges
	if len(ranges) > maxPulls {
		return nil, fmt.Errorf("%w: want of %d ranges, at most %d", errFrame, len(ranges), maxPulls)
	}
	out := make([]want, 0, len(ranges))
	asked := map[feed.FeedID]bool{}
	for _, w := range ranges {
		f, err := feedID(w.Origin, w.Epoch)
		if err != nil || w.From == 0 || w.To < w.From {
			return nil, fmt.Errorf("%w: want: %q epoch %d, %d to %d", errFrame, w.Origin, w.Epoch, w.From, w.To)
		}
		if asked[f] {
			return nil, fmt.Errorf("%w: want: %s twice", errFrame, f)
		}
		asked[f] = true
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
	if err == nil && (id.Path() == "" || len(origin) > maxOrigin || epoch == 0) {
		err = errFrame
	}
	return feed.FeedID{Origin: id, Epoch: epoch}, err
}

// headsFrames encodes heads, in pieces that fit.
func headsFrames(f feed.Frontier) [][]byte {
	var out [][]byte
	var body []headClaim
	size := 0
	for _, id := range f.Feeds() {
		if size += claimBytes(id); size > headsSize {
			out = append(out, frame(frameHeads, encode(body)))
			body, size = nil, claimBytes(id)
		}
		body = append(body, claimOf(id, f[id]))
	}
	if len(body) > 0 {
		out = append(out, frame(frameHeads, encode(body)))
	}
	return out
}

// endBody says that an answer ends before a record.
type endBody struct {
	Origin string `cbor:"1,keyasint"`
	Epoch  uint64 `cbor:"2,keyasint"`
	Seq    uint64 `cbor:"3,keyasint"`
}

func endFrame(f feed.FeedID, seq uint64) []byte {
	return frame(frameEnd, encode(endBody{f.Origin.String(), f.Epoch, seq}))
}

func parseEnd(b []byte) (feed.FeedID, uint64, error) {
	var body endBody
	if err := statement.Unmarshal(b, &body); err != nil {
		return feed.FeedID{}, 0, fmt.Errorf("%w: end: %w", errFrame, err)
	}
	f, err := feedID(body.Origin, body.Epoch)
	if err != nil || body.Seq == 0 {
		return f, 0, fmt.Errorf("%w: end: %q epoch %d seq %d", errFrame, body.Origin, body.Epoch, body.Seq)
	}
	return f, body.Seq, nil
}

func wantFrame(t frameType, w want) []byte {
	return frame(t, encode([]wantRange{{w.feed.Origin.String(), w.feed.Epoch, w.from, w.to}}))
}

// encode is for our own plain structs, which always encode.
func encode(v any) []byte {
	b, err := statement.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
