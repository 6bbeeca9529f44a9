package decision

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func denial(n int) policy.Decision {
	return policy.Decision{
		ID: fmt.Sprintf("%032x", n), Kind: policy.Connect, Source: "spiffe://east.dev.example/workload/shop", Target: "db.east",
		Level: policy.Regional, Rule: "caller-not-granted", Title: "The service does not list this caller", Owner: "mesh", File: "regional/connect.rego", Line: 18,
		Reason: "The service does not list this caller", Revision: "global@1+regional@7#5f1c09ab",
		Verdicts: []policy.Verdict{{Level: policy.Global, Revision: "1", Outcome: policy.Pass}, {Level: policy.Regional, Revision: "7", Outcome: policy.Denied}},
		Input:    json.RawMessage(`{"v":1,"kind":"connect","time":{"unix":1795000000,"trusted":true},"source":{"spiffe_id":"spiffe://east.dev.example/workload/shop"},"service":{"name":"db","region":"east"},"policy":{}}`),
		At:       noon,
	}
}

// chain writes segments of two events each, as the log does.
func chain(t *testing.T, dir string, segments int) (leaves Leaves) {
	t.Helper()
	prev := ""
	for s := range segments {
		var lines [][]byte
		for i := range 2 {
			e := NewEvent(denial(2*s+i), map[string]string{"id": "spiffe://east.dev.example/node/n1"}, noon)
			e.RequestID = uint64(2*s + i + 1)
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		}
		file, err := encodeSegment(Header{Segment: uint64(s + 1), Prev: prev, First: uint64(2*s + 1), Last: uint64(2*s + 2), Count: 2, From: noon, To: noon}, lines)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, segmentName(uint64(s+1))), file, 0o600); err != nil {
			t.Fatal(err)
		}
		digest := statement.Digest(file)
		prev = hex.EncodeToString(digest[:])
		body, err := statement.Marshal(segmentLeaf{Segment: uint64(s + 1), Digest: digest[:], Bytes: len(file), Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		leaves.Add(trail.Indexed{Leaf: trail.Leaf{Kind: trail.Segment.Name(), Body: body}})
	}
	return leaves
}

func TestEventKeepsTheDecision(t *testing.T) {
	d := denial(7)
	line, err := json.Marshal(NewEvent(d, map[string]string{"id": "n1"}, noon))
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEvent(line)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(d)
	if got, _ := json.Marshal(e.Decision()); !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if e.TraceID != d.ID || e.Path != "bailiwick/connect" || e.Bundles[policy.Regional].Revision != "7" || !e.Replayable() {
		t.Errorf("%+v", e)
	}
}

func TestReadTakesFoldersAndExports(t *testing.T) {
	state := t.TempDir()
	dir := filepath.Join(state, DirName)
	for _, d := range []string{dir, filepath.Join(state, "trail")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	chain(t, dir, 3)
	export := filepath.Join(t.TempDir(), "export.ndjson")
	var text bytes.Buffer
	for line, err := range Lines(dir) {
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(line, '\n'))
	}
	if err := os.WriteFile(export, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{dir: 6, state: 6, filepath.Join(state, "trail"): 6, export: 6, filepath.Join(dir, segmentName(2)): 2} {
		n := 0
		for e, err := range Read(path) {
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if n++; e.Kind() != policy.Connect {
				t.Errorf("%s: %+v", path, e)
			}
		}
		if n != want {
			t.Errorf("%s: %d events, want %d", path, n, want)
		}
	}
	for range Read(dir) {
		break // and no more is read
	}
	for _, err := range Read(t.TempDir()) {
		if !errors.Is(err, ErrNothing) {
			t.Errorf("an empty folder: %v", err)
		}
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	dir := t.TempDir()
	leaves := chain(t, dir, 4)
	name := func(n uint64) string { return filepath.Join(dir, segmentName(n)) }
	original := map[uint64][]byte{}
	for n := uint64(1); n <= 4; n++ {
		original[n], _ = os.ReadFile(name(n))
	}
	if r, err := Verify(dir, leaves); err != nil || !r.Good() || r.Segments != 4 || r.Events != 8 || r.Waiting != 0 || r.Missing != 0 {
		t.Fatalf("untouched: %+v, %v", r, err)
	}
	if r, _ := Verify(dir, Leaves{}); !r.Good() || r.Waiting != 4 {
		t.Errorf("before the trail has them: %+v", r)
	}
	rewritten := func(change func(h *Header, lines [][]byte)) []byte {
		var lines [][]byte
		h, _, err := readSegment(original[2], func(l []byte) error { lines = append(lines, bytes.Clone(l)); return nil })
		if err != nil {
			t.Fatal(err)
		}
		change(&h, lines)
		b, err := encodeSegment(h, lines)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	flipped := bytes.Clone(original[2])
	flipped[len(flipped)-6] ^= 1 // in the checksum of the text
	for what, tt := range map[string]struct {
		change func()
		want   error
	}{
		"a byte":          {func() { os.WriteFile(name(2), flipped, 0o600) }, ErrSegment},
		"cut short":       {func() { os.WriteFile(name(2), original[2][:len(original[2])-9], 0o600) }, ErrSegment},
		"taken out":       {func() { os.Remove(name(2)) }, ErrChain},
		"another's place": {func() { os.WriteFile(name(2), original[3], 0o600) }, ErrSegment},
		"one event edited": {func() {
			os.WriteFile(name(2), rewritten(func(_ *Header, l [][]byte) { l[1] = bytes.Replace(l[1], []byte("shop"), []byte("shot"), 1) }), 0o600)
		}, ErrUnsigned},
		"the newest edited": {func() {
			os.WriteFile(name(4), append(bytes.Clone(original[4]), 0), 0o600)
		}, ErrUnsigned},
		"two events swapped": {func() {
			os.WriteFile(name(2), rewritten(func(_ *Header, l [][]byte) { l[0], l[1] = l[1], l[0] }), 0o600)
		}, ErrSegment},
		"a count": {func() { os.WriteFile(name(2), rewritten(func(h *Header, _ [][]byte) { h.Count = 1 }), 0o600) }, ErrSegment},
		"the past": {func() {
			os.WriteFile(name(2), rewritten(func(h *Header, _ [][]byte) { h.Prev = strings.Repeat("0", 64) }), 0o600)
		}, ErrChain},
	} {
		tt.change()
		if r, err := Verify(dir, leaves); err != nil || !errors.Is(r.Err, tt.want) {
			t.Errorf("%s: found %v, want %v (%v)", what, r.Err, tt.want, err)
		}
		for n, b := range original {
			if err := os.WriteFile(name(n), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	os.Remove(name(1)) // the disk's bound takes the oldest
	if r, err := Verify(dir, leaves); err != nil || !r.Good() || r.First != 2 {
		t.Errorf("without the oldest: %+v, %v", r, err)
	}
	if r, err := Verify(filepath.Join(dir, "none"), leaves); err != nil || !r.Good() {
		t.Errorf("no folder: %+v, %v", r, err)
	}
}

func FuzzSegment(f *testing.F) {
	line, _ := json.Marshal(NewEvent(denial(1), nil, noon))
	file, _ := encodeSegment(Header{Segment: 1, First: 1, Last: 1, Count: 1}, [][]byte{line})
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		var lines [][]byte
		h, digest, err := readSegment(b, func(l []byte) error { lines = append(lines, bytes.Clone(l)); return nil })
		if err != nil {
			if !errors.Is(err, ErrSegment) {
				t.Errorf("%v is no ErrSegment", err)
			}
			return
		}
		if len(lines) != h.Count || digest != statement.Digest(b) {
			t.Errorf("%d lines, header %+v", len(lines), h)
		}
		again, err := encodeSegment(h, lines)
		if err != nil {
			t.Fatal(err)
		}
		var second [][]byte
		if h2, _, err := readSegment(again, func(l []byte) error { second = append(second, bytes.Clone(l)); return nil }); err != nil || h2.Count != h.Count ||
			!slices.EqualFunc(lines, second, bytes.Equal) {
			t.Errorf("written again: %+v, %v", h2, err)
		}
	})
}

func FuzzEvent(f *testing.F) {
	line, _ := json.Marshal(NewEvent(denial(1), map[string]string{"id": "n1"}, noon))
	f.Add(line)
	f.Add([]byte(`{"decision_id":"a","path":"bailiwick/","timestamp":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvent(b)
		if err != nil {
			if !errors.Is(err, ErrEvent) {
				t.Errorf("%v is no ErrEvent", err)
			}
			return
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseEvent(again); err != nil && len(again) <= MaxEvent {
			t.Errorf("written again: %v", err)
		}
	})
}

// What the deciding rule's author wrote beside it is in the event, under OPA's name for it.
func TestEventCarriesLabels(t *testing.T) {
	d := policy.Decision{ID: policy.NewID(), Kind: policy.Connect, Level: policy.Regional, Rule: "no", Owner: "shops",
		Verdicts: []policy.Verdict{{Level: policy.Regional, Outcome: policy.Denied, Rules: []*policy.Rule{{ID: "no", Owner: "shops", Labels: map[string]string{"runbook": "x"}}}}}}
	e := NewEvent(d, nil, time.Unix(1, 0))
	if len(e.RuleLabels) != 1 || e.RuleLabels[0]["owner"] != "shops" || e.RuleLabels[0]["runbook"] != "x" {
		t.Errorf("%v", e.RuleLabels)
	}
}

// The node removes the oldest only: where the newest that the trail names are gone, somebody deleted
// them. A trail that was copied without its segments is another matter, and said.
func TestVerifyMissesTheNewest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), DirName)
	if r, err := Verify(dir, Leaves{}); err != nil || !r.Good() || r.Absent != 0 {
		t.Errorf("a node that sealed nothing yet: %+v, %v", r, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	leaves := chain(t, dir, 3)
	for _, tt := range []struct {
		deleted, missing uint64
	}{{1, 0}, {3, 3}, {2, 1}} { // the oldest, which is what pruning does; the newest; all
		if err := os.Remove(filepath.Join(dir, segmentName(tt.deleted))); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(dir, leaves)
		if want := tt.missing == 0; err != nil || r.Good() != want || !want && (!errors.Is(r.Err, ErrMissing) || r.BadFile != segmentName(tt.missing)) {
			t.Errorf("without %d: %+v, %v", tt.deleted, r, err)
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(dir, leaves); err != nil || !r.Good() || r.Absent != 3 || r.Segments != 0 {
		t.Errorf("a trail without segments: %+v, %v", r, err)
	}
}

// A store that was put back, or is new, writes lower numbers again: what an earlier life wrote is not
// asked for.
func TestVerifyAfterANewStart(t *testing.T) {
	leaves := chain(t, t.TempDir(), 3)
	dir := t.TempDir()
	again := chain(t, dir, 1)
	for n, digests := range again.digests {
		digest, _ := hex.DecodeString(digests[0])
		body, err := statement.Marshal(segmentLeaf{Segment: n, Digest: digest})
		if err != nil {
			t.Fatal(err)
		}
		leaves.Add(trail.Indexed{Leaf: trail.Leaf{Kind: trail.Segment.Name(), Body: body}})
	}
	if r, err := Verify(dir, leaves); err != nil || !r.Good() || r.Segments != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
