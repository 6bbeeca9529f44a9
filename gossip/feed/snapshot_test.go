package feed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// restated is a put as a snapshot has it.
func restated(key, value string) Op {
	op := put(key, value)
	op.Written = &Written{Epoch: 1, Seq: 1, Record: ID{1}, HLC: NewHLC(t0)}
	return op
}

func note(i int) string { return KeyOf(n1, "x-note", fmt.Sprintf("%03d", i)) }

// snapshot makes the records of a snapshot with these ops, by part.
func (n *node) snapshot(tb testing.TB, l life, now time.Time, parts ...[]Op) []Record {
	tb.Helper()
	w, err := NewWriter(n.Chain, l.Epoch, l.priv)
	if err != nil {
		tb.Fatal(err)
	}
	var out []Record
	for i, ops := range parts {
		rec, err := w.Next(now, Draft{Kind: Snapshot, Ops: ops, Part: i, Parts: len(parts)})
		if err != nil {
			tb.Fatal(err)
		}
		res := n.admit(now, rec)
		want(tb, res, Admitted)
		if res.Complete != (i == len(parts)-1) {
			tb.Fatalf("part %d of %d: complete %v", i+1, len(parts), res.Complete)
		}
		out = append(out, rec)
	}
	return out
}

func twoParts() [][]Op { return [][]Op{{restated(note(1), "a")}, {restated(note(2), "b")}} }

func TestSnapshotReplacesHistory(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	old := n.write(t, l, t0, 5)
	before := n.Head(1).Bytes
	parts := n.snapshot(t, l, t0.Add(time.Second), twoParts()...)
	line := n.lines[1]
	if n.Start(1) != 6 || len(line.log) != 2 || len(line.live) != 2 || line.live[svc].size != 0 {
		t.Fatalf("start %d, %d records, live %v", n.Start(1), len(line.log), line.live)
	}
	if got := n.Head(1); got.Seq != 7 || got.Bytes != uint64(len(parts[0].raw)+len(parts[1].raw)) || got.Bytes >= before*5 {
		t.Errorf("head %+v", got)
	}
	want(t, n.admit(t0.Add(time.Minute), old[2]), Pruned)
	tail := n.write(t, l, t0.Add(2*time.Second), 1)
	if tail[0].Base != 6 {
		t.Errorf("the record after it names the snapshot at %d", tail[0].Base)
	}

	// What was pruned still convicts, as long as its header is kept.
	fork := forge(t, l, Header{Seq: 3, Prev: old[1].ID(), HLC: old[2].HLC + 1})
	res := n.admit(t0.Add(time.Minute), fork)
	want(t, res, Fork)
	if f := finding(t, res.Proof); f.Class != ClassEquivocation || f.LastGood != 2 {
		t.Errorf("finding %+v", f)
	}
	delete(n.records[l.Feed()], 2)
	delete(n.records[l.Feed()], 3)
	delete(n.records[l.Feed()], 4)
	want(t, n.admit(t0.Add(time.Minute), fork), Pruned)
}

// join hands a node what a peer answers: the header of its head, then records.
func (n *node) join(tb testing.TB, from *node, f FeedID) {
	tb.Helper()
	now := t0.Add(time.Hour)
	head := from.Head(f.Epoch).Seq
	if res := n.Witness(t0.Add(time.Hour), from.records[f][from.Anchor(f.Epoch)].Signed); res.Err != nil {
		tb.Fatal(res.Err)
	}
	for n.Missing(f.Epoch, head) > 0 {
		next := n.Next(f.Epoch)
		n.admit(now, from.records[f][next])
		if n.Next(f.Epoch) == next {
			tb.Fatalf("record %d was not taken", next)
		}
	}
}

func TestJoinerBeginsWithTheSnapshot(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	old := n.write(t, l, t0, 5)
	parts := n.snapshot(t, l, t0.Add(time.Second), twoParts()...)
	tail := n.write(t, l, t0.Add(2*time.Second), 3)
	now := t0.Add(time.Hour)
	for _, held := range []int{0, 3} {
		j := newNode(t, n1, l)
		for _, r := range old[:held] {
			want(t, j.admit(now, r), Admitted)
		}
		want(t, j.admit(now, parts[0]), ParkedGap) // nobody has signed yet that it will be complete
		if got := j.Missing(1, 10); got != uint64(10-held) {
			t.Fatalf("%d missing", got)
		}
		want(t, j.admit(now, tail[2]), ParkedGap)
		if res := j.Witness(t0.Add(time.Hour), parts[0].Signed); res.Err != nil || j.Next(1) != uint64(held+1) {
			t.Fatalf("a part's header promised a whole: next %d, %v", j.Next(1), res.Err)
		}
		if res := j.Witness(t0.Add(time.Hour), tail[1].Signed); res.Err != nil || j.Next(1) != 6 || j.Missing(1, 10) != 5 {
			t.Fatalf("next %d, %d missing, %v", j.Next(1), j.Missing(1, 10), res.Err)
		}
		if got := j.Ready(now); len(got) != 1 || got[0].Verdict != ParkedPart {
			t.Fatalf("ready %+v", got)
		}
		if h := j.Head(1); h.Seq != uint64(held) {
			t.Fatalf("head %d with half of a snapshot", h.Seq)
		}
		want(t, j.admit(now, parts[0]), Duplicate)
		res := j.admit(now, parts[1])
		want(t, res, Admitted)
		if !res.Complete || len(res.Parts) != 1 || res.Parts[0].id != parts[0].id {
			t.Fatalf("result %+v", res)
		}
		want(t, j.admit(now, tail[0]), Admitted)
		want(t, j.admit(now, tail[1]), Admitted)
		if j.Head(1) != n.Head(1) || j.Start(1) != n.Start(1) || len(j.lines[1].live) != len(n.lines[1].live) {
			t.Errorf("head %+v, want %+v", j.Head(1), n.Head(1))
		}
		again := newNode(t, n1, l) // from disk
		for _, r := range append(slices.Clone(parts), tail...) {
			if _, ok, err := again.Restore(r); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		if again.Head(1) != n.Head(1) || again.Start(1) != 6 {
			t.Errorf("restored head %+v", again.Head(1))
		}
	}
}

// Whoever was told another history finds out, before it leaves its own behind and
// after: two joiners that were told different things can always be told apart.
func TestTwoHistoriesMeet(t *testing.T) {
	l := newLife(t, n1, 1, true)
	common := write(t, l, t0, 2)
	world := func(value string) *node {
		n := newNode(t, n1, l)
		for _, r := range common {
			want(t, n.admit(t0.Add(time.Minute), r), Admitted)
		}
		n.write(t, l, t0.Add(time.Second), 2, put(svc, value)) // 3, 4
		n.snapshot(t, l, t0.Add(2*time.Second), twoParts()...) // 5, 6
		n.write(t, l, t0.Add(3*time.Second), 2, put(svc, value))
		return n
	}
	a, b := world("a"), world("b")
	of := func(n *node, seq uint64) Record { return n.records[l.Feed()][seq] }
	for _, tc := range []struct {
		name     string
		held     uint64 // a joiner has a's records up to here
		told     uint64 // a header of b's it is shown
		lastGood uint64
	}{
		{"its own head, differing", 4, 4, 2},
		{"the one after its head", 4, 5, 3},
		{"one it holds", 8, 7, 5},
		{"the start", 8, 5, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := newNode(t, n1, l)
			for seq := uint64(1); seq <= tc.held; seq++ {
				want(t, j.admit(t0.Add(time.Minute), of(a, seq)), Admitted)
			}
			res := j.Witness(t0.Add(time.Hour), of(b, tc.told).Signed)
			want(t, res, Fork)
			if f := finding(t, res.Proof); f.LastGood != tc.lastGood {
				t.Errorf("finding %+v", f)
			}
		})
	}
	t.Run("two joiners", func(t *testing.T) {
		x, y := newNode(t, n1, l), newNode(t, n1, l)
		x.join(t, a, l.Feed())
		y.join(t, b, l.Feed())
		if x.Start(1) != 5 || y.Start(1) != 5 {
			t.Fatal("they did not begin with a snapshot")
		}
		want(t, x.Witness(t0.Add(time.Hour), of(b, 8).Signed), Fork)
		want(t, y.admit(t0.Add(time.Minute), of(a, 6)), Fork)
	})
}

func TestSnapshotRules(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	recs := n.write(t, l, t0, 3)
	first := n.snapshot(t, l, t0.Add(time.Second), twoParts()...) // 4, 5
	half := forge(t, l, Header{Kind: Snapshot, Seq: 6, Prev: first[1].ID(), HLC: first[1].HLC + 1, Base: 6, Parts: 3}, restated(note(5), ""))
	want(t, n.admit(t0.Add(time.Minute), half), Admitted)
	next := func(h Header) Header {
		h.Seq, h.Prev, h.HLC = 7, half.ID(), half.HLC+1
		return h
	}
	for _, tc := range []struct {
		name string
		rec  Record
		want Verdict
	}{
		{"next part", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 3}), restated(note(6), "")), Admitted},
		{"a deletion", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 3}), Op{Key: note(6), Action: Del, Scope: ScopeZone, Written: restated("", "").Written}), Admitted},
		{"another snapshot", forge(t, l, next(Header{Kind: Snapshot, Base: 7, Parts: 1})), Admitted},
		{"an op: the snapshot is void", forge(t, l, next(Header{Base: 4}), put(svc, "")), Admitted},
		{"op names the unfinished one", forge(t, l, next(Header{Base: 6}), put(svc, "")), BadSnapshot},
		{"op names none", forge(t, l, next(Header{}), put(svc, "")), BadSnapshot},
		{"other count", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 4}), restated(note(6), "")), BadSnapshot},
		{"part of none", forge(t, l, next(Header{Kind: Snapshot, Base: 5, Parts: 4}), restated(note(6), "")), BadSnapshot},
		{"key again", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 3}), restated(note(5), "")), BadSnapshot},
		{"keys not ascending", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 3}), restated(note(8), ""), restated(note(7), "")), BadSnapshot},
		{"not written", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 3}), put(note(6), "")), BodyMismatch},
		{"written in an op", forge(t, l, next(Header{Base: 4}), restated(note(6), "")), BodyMismatch},
		{"a foreign key", forge(t, l, next(Header{Kind: Snapshot, Base: 6, Parts: 3}), restated(KeyOf(n2, "x-note", "1"), "")), ForeignKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			again := newNode(t, n1, l)
			for _, r := range append(append(slices.Clone(recs), first...), half) {
				want(t, again.admit(t0.Add(time.Minute), r), Admitted)
			}
			want(t, again.admit(t0.Add(time.Minute), tc.rec), tc.want)
			if again.Start(1) == 6 || again.lines[1].base == 6 {
				t.Error("an unfinished snapshot took effect")
			}
		})
	}
}

func TestUnfinishedSnapshotTakesNoEffect(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	n.write(t, l, t0, 2)
	half := forge(t, l, Header{Kind: Snapshot, Seq: 3, Prev: n.Head(1).ID, HLC: n.Head(1).HLC + 1, Base: 3, Parts: 2}, restated(note(1), ""))
	want(t, n.admit(t0.Add(time.Minute), half), Admitted)
	if len(n.lines[1].live) != 1 || n.lines[1].live[svc].size == 0 || n.Counts(half) || n.Anchor(1) != 2 {
		t.Errorf("live %v, anchor %d", n.lines[1].live, n.Anchor(1))
	}
	j := newNode(t, n1, l)
	if j.Witness(t0.Add(time.Hour), half.Signed); j.Next(1) != 1 {
		t.Error("a joiner would begin with half of a snapshot")
	}
}

func TestFeedIsBounded(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	most := uint64(LimitsOf("node").Feed)
	n.lines[1].log = []Head{{Seq: 1, Bytes: most - 10}}
	w, err := NewWriter(n.Chain, 1, l.priv)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.Next(t0, Draft{}); !errors.Is(err, ErrQuota) {
			t.Errorf("the owner itself: %v", err)
		}
	}
	want(t, n.admit(t0, forge(t, l, Header{Seq: 2, HLC: NewHLC(t0)}, put(svc, ""))), OverQuota)
	want(t, n.admit(t0, forge(t, l, Header{Kind: Snapshot, Seq: 2, HLC: NewHLC(t0), Base: 2, Parts: 1})), Admitted)
	if n.Head(1).Bytes > 1000 {
		t.Errorf("%d bytes after a snapshot", n.Head(1).Bytes)
	}
}

func TestFreezeBeforeTheSnapshot(t *testing.T) {
	l := newLife(t, n1, 1, true)
	make := func() (*node, []Record) {
		n := newNode(t, n1, l)
		recs := n.write(t, l, t0, 3)
		recs = append(recs, n.snapshot(t, l, t0.Add(time.Second), twoParts()...)...) // 4, 5
		return n, append(recs, n.write(t, l, t0.Add(2*time.Second), 2)...)
	}
	for lastGood, left := range map[uint64]int{1: 0, 4: 0, 5: 2, 6: 3} {
		n, recs := make()
		if !n.FreezeAt(1, lastGood) || len(n.lines[1].log) != left {
			t.Fatalf("frozen at %d: %d records", lastGood, len(n.lines[1].log))
		}
		counts := 0
		for _, r := range recs {
			if n.Counts(r) {
				counts++
			}
		}
		if want := map[uint64]int{1: 0, 4: 0, 5: 2, 6: 3}[lastGood]; counts != want {
			t.Errorf("frozen at %d: %d records count, want %d", lastGood, counts, want)
		}
		again := newNode(t, n1, l) // from disk
		again.FreezeAt(1, lastGood)
		for _, r := range recs[3:] {
			if _, _, err := again.Restore(r); err != nil {
				t.Fatal(err)
			}
		}
		again.Settle()
		if again.Head(1) != n.Head(1) {
			t.Errorf("frozen at %d: head %+v after a restart, before %+v", lastGood, again.Head(1), n.Head(1))
		}
		if lastGood == 1 { // others still have what counts
			want(t, n.admit(t0.Add(time.Minute), recs[0]), Admitted)
			want(t, n.admit(t0.Add(time.Minute), recs[1]), Frozen)
		}
	}
}

func TestSnapshotOfANewEpoch(t *testing.T) {
	zero, first, second := newLife(t, n1, 1, true), newLife(t, n1, 2, true), newLife(t, n1, 3, true)
	owner := newNode(t, n1, zero, first, second)
	oldest := owner.write(t, zero, t0, 2)
	old := owner.write(t, first, t0.Add(time.Second), 4)
	w, err := NewWriter(owner.Chain, 3, second.priv)
	if err != nil || !w.SnapshotDue() {
		t.Fatalf("no snapshot is due at the start of an epoch: %v", err)
	}
	parts := owner.snapshot(t, second, t0.Add(2*time.Second), twoParts()...)
	since := []Place{{2, 4}, {1, 2}}
	if !slices.Equal(parts[0].Since, since) || !slices.Equal(parts[1].Since, since) || parts[0].Prev != old[3].ID() {
		t.Fatalf("since %+v", parts[0].Since)
	}
	if w.SnapshotDue() || owner.Leftover() {
		t.Error("old records are left")
	}
	// Peers hold records that the owner did not when it went on.
	late := forge(t, first, Header{Seq: 5, Prev: old[3].ID(), HLC: old[3].HLC + 1}, put(svc, "late"))
	peer := newNode(t, n1, zero, first, second)
	for _, r := range slices.Concat(oldest, old, []Record{late}, parts) {
		want(t, peer.admit(t0.Add(time.Minute), r), Admitted)
	}
	joiner := newNode(t, n1, zero, first, second)
	joiner.join(t, peer, second.Feed())
	want(t, joiner.admit(t0.Add(time.Minute), old[0]), Pruned)
	want(t, joiner.admit(t0.Add(time.Minute), oldest[0]), Pruned)
	if joiner.Next(2) != 5 || joiner.Missing(2, 5) != 1 || joiner.Missing(1, 2) != 0 {
		t.Fatalf("the rest of the old epoch begins at %d", joiner.Next(2))
	}
	want(t, joiner.admit(t0.Add(time.Minute), late), Admitted)
	want(t, joiner.admit(t0.Add(time.Minute), forge(t, first, Header{Seq: 5, Prev: ID{9}, HLC: late.HLC})), Fork)
	for _, n := range []*node{peer, joiner} {
		if n.Start(2) != 5 || n.Head(2).Seq != 5 || n.Head(1).Seq != 0 || !n.Rewound(2, 5) || n.Rewound(2, 4) || n.Rewound(3, 1) {
			t.Errorf("old epoch from %d to %d", n.Start(2), n.Head(2).Seq)
		}
	}
	frontier := func(n *node) Frontier {
		out := Frontier{}
		for f, h := range n.Heads() {
			out[f] = h
		}
		return out
	}
	if a, b := frontier(peer), frontier(joiner); a.Root() != b.Root() || len(a) != 2 {
		t.Errorf("frontiers differ: %v", a.Diff(b))
	}
	again := newNode(t, n1, zero, first, second) // from disk
	for _, r := range append(slices.Clone(parts), late) {
		if _, ok, err := again.Restore(r); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if a, b := frontier(peer), frontier(again); a.Root() != b.Root() {
		t.Errorf("restored differently: %v", a.Diff(b))
	}
	tail := owner.snapshot(t, second, t0.Add(time.Minute), []Op{restated(note(1), "a")})
	if !slices.Equal(tail[0].Since, since) {
		t.Errorf("a later snapshot forgets where the epoch began: %+v", tail[0].Since)
	}
}

// Epoch 5 went on from 4, and that from 2 by a disk that was put back: what 3 wrote,
// and 2 after that point, was not known to them.
func TestPathOfAnEpoch(t *testing.T) {
	path := []Place{{4, 9}, {2, 6}}
	for epoch, want := range map[uint64]uint64{4: 9, 3: 0, 2: 6} {
		if got := covered(path, epoch); got != want {
			t.Errorf("epoch %d is covered up to %d, want %d", epoch, got, want)
		}
	}
	if covered(path, 1) < 1<<60 || covered(nil, 1) != 0 {
		t.Error("epochs before the path")
	}
	for _, bad := range [][]Place{{{5, 1}}, {{4, 0}}, {{4, maxSeq + 1}}, {{2, 1}, {2, 1}}, {{2, 1}, {3, 1}}, {{1, 1}, {0, 1}}, make([]Place, MaxSince+1)} {
		if isPath(bad, 5) {
			t.Errorf("%v is a path", bad)
		}
	}
}

func TestSnapshotsAreDue(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	w, err := NewWriter(n.Chain, 1, l.priv)
	if err != nil {
		t.Fatal(err)
	}
	if w.SnapshotDue() {
		t.Error("due before there is anything")
	}
	n.write(t, l, t0, dueRecords-1)
	if w.SnapshotDue() {
		t.Error("due too soon")
	}
	n.write(t, l, t0.Add(time.Hour), 1)
	if !w.SnapshotDue() {
		t.Error("not due after many records")
	}
	n.snapshot(t, l, t0.Add(2*time.Hour), twoParts()...)
	if w.SnapshotDue() {
		t.Error("due again at once")
	}
	big := string(make([]byte, MaxValue))
	for i := range dueBytes / MaxValue {
		n.write(t, l, t0.Add(3*time.Hour+time.Duration(i)*time.Second), 1, put(note(i%4), big))
	}
	if n.write(t, l, t0.Add(4*time.Hour), 1, put(note(1), big)); !w.SnapshotDue() {
		t.Error("not due after many bytes")
	}
	for i := range 40 { // the live state outgrows what was written since
		n.lines[1].bytes += i * MaxValue
	}
	if w.SnapshotDue() {
		t.Error("snapshots would cost more than they save")
	}
}

func TestParts(t *testing.T) {
	if got := Parts(nil); len(got) != 1 || len(got[0]) != 0 {
		t.Errorf("no ops make %d parts", len(got))
	}
	var ops []Op
	for i := range 600 {
		ops = append(ops, restated(note(i), string(make([]byte, i%7*100))))
	}
	ops = append(ops, restated(note(990), string(make([]byte, MaxValue))), restated(note(991), string(make([]byte, MaxValue))))
	var joined []string
	for _, part := range Parts(ops) {
		if _, err := encodeBody(part); err != nil {
			t.Error(err)
		}
		for _, op := range part {
			joined = append(joined, op.Key)
		}
	}
	if len(joined) != len(ops) || !slices.IsSorted(joined) {
		t.Errorf("%d of %d ops in the parts", len(joined), len(ops))
	}
}

// An honest owner writes and snapshots as it likes; whoever follows it, joins it
// late, or stays away for a while ends with the same heads and live keys.
func FuzzJoin(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0x80, 9, 9, 0x81, 4, 0x82, 0x83})
	f.Add([]byte{0x80, 0x80, 1})
	f.Fuzz(joins)
}

// What the fuzzer would find in a minute, found each time.
func TestJoins(t *testing.T) {
	draw := rand.New(rand.NewPCG(3, 4))
	for range 150 {
		script := make([]byte, 8+draw.IntN(52))
		for i := range script {
			if script[i] = byte(draw.IntN(0x80)); draw.IntN(5) == 0 {
				script[i] = 0x80 | byte(draw.IntN(4))
			}
		}
		t.Run(fmt.Sprintf("%x", script), func(t *testing.T) { joins(t, script) })
	}
}

func joins(t *testing.T, script []byte) {
	if len(script) > 60 {
		return
	}
	l := newLife(t, n1, 1, true)
	owner, away := newNode(t, n1, l), newNode(t, n1, l)
	live := map[string]Op{}
	for i, b := range script {
		now := t0.Add(time.Duration(i) * time.Second)
		if b < 0x80 {
			op := put(note(int(b%8)), string(script[:i]))
			if b&0x40 != 0 {
				op = Op{Key: op.Key, Action: Del, Scope: ScopeRegion}
			}
			owner.write(t, l, now, 1, op)
			delete(live, op.Key)
			if op.Action == Put {
				live[op.Key] = restated(op.Key, string(op.Value))
			}
			continue
		}
		var parts [][]Op
		for k := range 8 {
			if op, ok := live[note(k)]; ok {
				parts = append(parts, []Op{op})
			}
		}
		if len(parts) == 0 || b&2 != 0 {
			parts = [][]Op{slices.Concat(parts...)}
		}
		if owner.Head(1).Seq == 0 {
			continue
		}
		owner.snapshot(t, l, now, parts...)
		if b&1 != 0 {
			away.join(t, owner, l.Feed())
		}
	}
	if owner.Head(1).Seq == 0 {
		return
	}
	joiner := newNode(t, n1, l)
	joiner.join(t, owner, l.Feed())
	away.join(t, owner, l.Feed())
	for _, n := range []*node{joiner, away} {
		if n.Head(1) != owner.Head(1) || n.Start(1) != owner.Start(1) || len(n.lines[1].live) != len(live) || n.lines[1].bytes != owner.lines[1].bytes {
			t.Fatalf("head %+v from %d with %d keys, owner %+v from %d with %d", n.Head(1), n.Start(1), len(n.lines[1].live), owner.Head(1), owner.Start(1), len(live))
		}
	}
}
