package replica

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func FuzzFrame(f *testing.F) {
	id := feed.FeedID{Origin: nodeID(1), Epoch: 1}
	for _, b := range headsFrames(true, feed.Frontier{id: {Seq: 1}}) {
		f.Add(b)
	}
	f.Add(wantFrame(want{id, 1, 2}))
	f.Add(frame(frameRoot, make([]byte, 32)))
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
			if part, heads, err := parseHeads(body); err == nil && part > partLast {
				t.Fatalf("part %d, %d heads", part, len(heads))
			}
		case frameWant:
			ws, err := parseWant(body)
			for _, w := range ws {
				if err == nil && (w.from == 0 || w.to < w.from) {
					t.Fatalf("want %+v", w)
				}
			}
		}
	})
}
