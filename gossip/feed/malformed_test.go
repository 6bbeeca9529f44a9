package feed

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// A header may be signed well and still be no record: each of these breaks one rule.
func TestMalformedHeader(t *testing.T) {
	l := newLife(t, n1, 1, true)
	good := Header{Kind: Ops, Origin: n1.String(), Epoch: 3, Seq: 9, HLC: NewHLC(t0), Size: 1}
	part := good
	part.Kind, part.Base, part.Parts = Snapshot, 8, 3
	part.Since = []Place{{2, 1}, {1, 7}}
	parse := func(h Header) error {
		_, err := ParseSigned(signBytes(t, l, mustMarshal(t, h)))
		return err
	}
	long := strings.Repeat("x", MaxHeader)
	for _, tt := range []struct {
		name  string
		from  Header
		spoil func(*Header)
		fine  bool
	}{
		{"as it is", good, func(*Header) {}, true},
		{"a part as it is", part, func(*Header) {}, true},
		{"last seq", good, func(h *Header) { h.Seq = maxSeq }, true},
		{"policy of 128 bytes", good, func(h *Header) { h.Policy = long[:maxPolicy] }, true},
		{"trace context", good, func(h *Header) { h.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" }, true},
		{"most of all", part, func(h *Header) { h.Count, h.Size, h.Parts = MaxOps, MaxBody, MaxParts }, true},
		{"eight epochs before", part, func(h *Header) { h.Epoch, h.Since = 10, descending(8) }, true},

		{"no SPIFFE ID", good, func(h *Header) { h.Origin = "n1" }, false},
		{"no path", good, func(h *Header) { h.Origin = "spiffe://east.dev.example" }, false},
		{"long origin", good, func(h *Header) { h.Origin = n1.String() + "/" + long[:maxOrigin] }, false},
		{"kind 0", good, func(h *Header) { h.Kind = 0 }, false},
		{"kind 4", good, func(h *Header) { h.Kind = 4 }, false},
		{"epoch 0", good, func(h *Header) { h.Epoch = 0 }, false},
		{"seq 0", part, func(h *Header) { h.Kind, h.Seq, h.Base, h.Parts, h.Since = Leave, 0, 0, 0, nil }, false},
		{"seq 2^63", good, func(h *Header) { h.Seq = maxSeq + 1 }, false},
		{"long policy", good, func(h *Header) { h.Policy = long[:maxPolicy+1] }, false},
		{"too many ops", good, func(h *Header) { h.Count = MaxOps + 1 }, false},
		{"no body", good, func(h *Header) { h.Size = 0 }, false},
		{"large body", good, func(h *Header) { h.Size = MaxBody + 1 }, false},
		{"leave with ops", good, func(h *Header) { h.Kind, h.Count = Leave, 1 }, false},
		{"trace context of another form", good, func(h *Header) { h.Traceparent = "00-0af7" }, false},
		{"base at itself", good, func(h *Header) { h.Base = h.Seq }, false},
		{"parts of no snapshot", good, func(h *Header) { h.Parts = 1 }, false},
		{"since of no snapshot", good, func(h *Header) { h.Since = []Place{{1, 1}} }, false},
		{"no parts", part, func(h *Header) { h.Parts = 0 }, false},
		{"too many parts", part, func(h *Header) { h.Parts = MaxParts + 1 }, false},
		{"no base", part, func(h *Header) { h.Base, h.Parts = 0, 20 }, false},
		{"base after itself", part, func(h *Header) { h.Base = h.Seq + 1 }, false},
		{"behind its last part", part, func(h *Header) { h.Parts = 1 }, false},
		{"since its own epoch", part, func(h *Header) { h.Since = []Place{{3, 1}} }, false},
		{"since ascending", part, func(h *Header) { slices.Reverse(h.Since) }, false},
		{"since epoch 0", part, func(h *Header) { h.Since[1].Epoch = 0 }, false},
		{"since seq 0", part, func(h *Header) { h.Since[1].Seq = 0 }, false},
		{"since seq 2^63", part, func(h *Header) { h.Since[1].Seq = maxSeq + 1 }, false},
		{"nine epochs before", part, func(h *Header) { h.Epoch, h.Since = 10, descending(9) }, false},
	} {
		h := tt.from
		h.Since = slices.Clone(h.Since)
		tt.spoil(&h)
		if err := parse(h); (err == nil) != tt.fine || err != nil && !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"no statement":    []byte("record"),
		"too large":       make([]byte, MaxRecord+1),
		"header too long": mustMarshal(t, wireRecord{signBytes(t, l, make([]byte, MaxHeader)), []byte{0x80}}),
		"no header":       mustMarshal(t, wireRecord{signBytes(t, l, []byte{0xa0}), []byte{0x80}}),
	} {
		if _, err := Parse(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// descending is the longest path of n epochs before epoch 10.
func descending(n uint64) (out []Place) {
	for i := range n {
		out = append(out, Place{9 - i, 1})
	}
	return out
}

// A body may be just what the header was signed over and still be none.
func TestMalformedBody(t *testing.T) {
	l := newLife(t, n1, 2, true)
	again := restated(svc, "v")
	written := func(epoch, seq uint64) []Op {
		op := again
		op.Written = &Written{Epoch: epoch, Seq: seq}
		return []Op{op}
	}
	for _, tt := range []struct {
		name  string
		kind  RecordKind
		count int // that the header says, if not that of ops
		fine  bool
		ops   []Op
	}{
		{"put", Ops, 0, true, []Op{put(svc, "v")}},
		{"del", Ops, 0, true, []Op{{Key: svc, Action: Del, Scope: ScopeGlobal}}},
		{"restated", Snapshot, 0, true, []Op{again}},
		{"256 ops", Ops, 0, true, slices.Repeat([]Op{put(svc, "v")}, MaxOps)},

		{"another count", Ops, 9, false, []Op{put(svc, "v")}},
		{"no action", Ops, 0, false, []Op{{Key: svc, Scope: ScopeZone}}},
		{"action 3", Ops, 0, false, []Op{{Key: svc, Action: 3, Scope: ScopeZone}}},
		{"del with a value", Ops, 0, false, []Op{{Key: svc, Action: Del, Value: []byte("v"), Scope: ScopeZone}}},
		{"no scope", Ops, 0, false, []Op{{Key: svc, Action: Put}}},
		{"scope 4", Ops, 0, false, []Op{{Key: svc, Action: Put, Scope: 4}}},
		{"no key", Ops, 0, false, []Op{put("", "v")}},
		{"a long key", Ops, 0, false, []Op{put("/"+strings.Repeat("o", MaxKey)+"/x-k/n", "v")}},
		{"restated in no snapshot", Ops, 0, false, []Op{again}},
		{"restated nowhere", Snapshot, 0, false, []Op{put(svc, "v")}},
		{"written before the snapshot", Snapshot, 0, true, written(2, 4)},
		{"written in the snapshot", Snapshot, 0, false, written(2, 5)},
		{"written in a later epoch", Snapshot, 0, false, written(3, 1)},
		{"written in epoch 0", Snapshot, 0, false, written(0, 1)},
		{"written in record 0", Snapshot, 0, false, written(1, 0)},
		{"257 ops", Ops, MaxOps, false, slices.Repeat([]Op{put(svc, "")}, MaxOps+1)},
	} {
		body := mustMarshal(t, tt.ops)
		h := Header{Kind: tt.kind, Seq: 5, Count: uint16(len(tt.ops)), Size: uint32(len(body)), Root: OpsRoot(tt.ops)}
		if tt.count > 0 {
			h.Count = uint16(tt.count)
		}
		if tt.kind == Snapshot {
			h.Base, h.Parts = 5, 1
		}
		h.Origin, h.Epoch = l.Origin.String(), l.Epoch
		rec, err := Parse(mustMarshal(t, wireRecord{signBytes(t, l, mustMarshal(t, h)), body}))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if _, err := rec.Ops(); (err == nil) != tt.fine || err != nil && !errors.Is(err, ErrBody) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func mustMarshal(tb testing.TB, v any) []byte {
	tb.Helper()
	b, err := statement.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// signBytes is the statement of a payload that need not be a header.
func signBytes(tb testing.TB, l life, payload []byte) []byte {
	tb.Helper()
	st, err := statement.Sign(l.priv, recordType, l.Origin.TrustDomain().Name(), payload)
	if err != nil {
		tb.Fatal(err)
	}
	return st
}
