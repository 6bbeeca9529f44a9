package attack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A frame that says it is longer than any.
func TestOversizedFrame(t *testing.T) {
	attacked(t, 2, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		_, _ = s.Write(append(binary.BigEndian.AppendUint32(nil, 16<<20), frameRecord))
		s.blamed()
		f.unharmed()
	})
}

// Frames of no known type.
func TestUnknownFrame(t *testing.T) {
	attacked(t, 2, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		s.send(250, []byte("x"))
		s.blamed()
		f.unharmed()
	})
}

// Every frame cut short, and bodies that are none.
func TestTruncatedFrame(t *testing.T) {
	attacked(t, 2, func(t *testing.T, f *fleet) {
		whole := f.turncoat("h0")
		rec := whole.say(op(whole.key("a"), "1")).Bytes()
		seal, err := feed.SignSeal(whole.self.Signer, feed.FeedID{Origin: whole.id, Epoch: 1}, 1, feed.ID{1})
		if err != nil {
			t.Fatal(err)
		}
		bodies := []struct {
			frame byte
			body  []byte
		}{
			{frameRoot, make([]byte, 31)}, {frameHeads, []byte{0xa2, 1, 2, 2}}, {frameWant, []byte{0x81}}, {frameRecord, rec[:len(rec)/2]},
			{frameSeal, seal[:20]}, {frameHeader, rec[:3]}, {frameRecord, nil},
		}
		for i, b := range bodies {
			h := f.turncoat("h" + string(rune('1'+i)))
			s := h.attach(f.nodes[0])
			s.send(b.frame, b.body)
			s.blamed()
		}
		f.unharmed()
	})
}

// CBOR in CBOR in CBOR, and lengths far beyond what follows.
func TestNestedFrame(t *testing.T) {
	attacked(t, 2, func(t *testing.T, f *fleet) {
		deep := bytes.Repeat([]byte{0x81}, 30<<10)                                             // arrays of one
		wide := []byte{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}                   // an array of 2^63-1
		long := append([]byte{0xa2, 1, 0, 2, 0x5b, 0, 0, 0, 7}, bytes.Repeat([]byte{0}, 4)...) // 32 GiB of bytes
		for i, body := range [][]byte{deep, wide, long} {
			for j, kind := range []byte{frameHeads, frameWant, frameRecord, frameHeader} {
				h := f.turncoat("h" + string(rune('a'+i)) + string(rune('a'+j)))
				s := h.attach(f.nodes[0])
				s.send(kind, body)
				s.blamed()
			}
		}
		f.unharmed()
	})
}

// All there is, asked for in more ranges than a frame may have, or again and again.
func TestWantOfEverything(t *testing.T) {
	t.Run("many ranges", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			var ranges []wantRange
			for i := range 400 {
				ranges = append(ranges, wantRange{f.nodes[0].id.String(), uint64(i + 1), 1, 1 << 62})
			}
			s.send(frameWant, encode(t, ranges))
			s.blamed()
			f.unharmed()
		})
	})
	t.Run("one range again and again", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			victim := f.nodes[0]
			for i := range 22 {
				victim.put(fmt.Sprint("large", i), strings.Repeat("x", 4<<10))
				victim.put(fmt.Sprint("large", i), strings.Repeat("y", 4<<10))
				victim.put(fmt.Sprint("large", i), strings.Repeat("z", 4<<10))
			}
			h := f.turncoat("h1")
			heard := newCounter()
			s := h.link(victim).speak(heard.count)
			want := encode(t, []wantRange{{victim.id.String(), 1, 1, 1 << 62}})
			start := time.Now()
			for range 600 { // each could have 256 KiB
				s.send(frameWant, want)
				time.Sleep(2 * time.Millisecond)
			}
			f.unharmed()
			if got := heard.bytes(); got > (8<<20)*(seconds(start)+2) {
				t.Errorf("%d MiB were read for it within %s", got>>20, time.Since(start))
			}
		})
	})
}
