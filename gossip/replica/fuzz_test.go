package replica

import (
	"bufio"
	"bytes"
	"reflect"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func FuzzFrame(f *testing.F) {
	id := feed.FeedID{Origin: nodeID(1), Epoch: 1}
	for _, b := range headsFrames(feed.Frontier{id: {Seq: 1}}) {
		f.Add(b)
	}
	f.Add(wantFrame(frameWant, want{id, 1, 2}))
	for _, b := range leavesFrames([]leaves{{heads: feed.Frontier{id: {Seq: 1}}}}) {
		f.Add(b)
	}
	for _, b := range nodesFrames([]branch{{prefix: "\x01", children: [feed.Fanout][32]byte{3: {1}}}, {prefix: "\x02"}}) {
		f.Add(b)
	}
	f.Add(endFrame(id, 7))
	f.Add(frame(frameRoot, make([]byte, 32)))
	f.Add(termsFrame(Terms{Tree, 2048}))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := readFrame(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		if again := frame(kind, body); !bytes.HasPrefix(b, again) {
			t.Fatalf("%x re-encodes as %x", b, again)
		}
		switch kind {
		case frameHeads:
			if heads, err := parseHeads(body); err == nil {
				same(t, heads, headsFrames(heads), parseHeads)
			}
		case frameEnd:
			if f, seq, err := parseEnd(body); err == nil && !bytes.Equal(endFrame(f, seq)[5:], body) {
				t.Fatalf("end of %s at %d encodes to other bytes", f, seq)
			}
		case frameNodes:
			if nodes, err := parseNodes(body); err == nil {
				same(t, nodes, nodesFrames(nodes), parseNodes)
			}
		case frameLeaves:
			if subtrees, err := parseLeaves(body); err == nil {
				same(t, subtrees, leavesFrames(subtrees), parseLeaves)
			}
		case frameTerms:
			if terms, err := parseTerms(body); err == nil {
				same(t, terms, [][]byte{termsFrame(terms)}, parseTerms)
			}
		case frameWant, frameFetch:
			ws, err := parseWant(body)
			for _, w := range ws {
				if err == nil && (w.from == 0 || w.to < w.from) {
					t.Fatalf("want %+v", w)
				}
			}
		}
	})
}

// same wants what was understood of a frame to mean the same once it is said again.
func same[T any](t *testing.T, meant T, again [][]byte, parse func([]byte) (T, error)) {
	t.Helper()
	if len(again) != 1 {
		return // nothing was said, or so much that we would cut it
	}
	got, err := parse(again[0][5:])
	if err != nil || !reflect.DeepEqual(got, meant) {
		t.Fatalf("%+v, after encoding: %+v, %v", meant, got, err)
	}
}
