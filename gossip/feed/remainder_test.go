package feed

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// copies are nodes that came to hold the same in different ways.
type copies struct {
	tb    testing.TB
	lives []life           // by epoch
	live  *node            // heard every record in order
	ways  map[string]*node // the others, by how they came to what they hold
	away  *node            // hears nothing between calls of agree

	signed map[FeedID]map[uint64]Record // the one history of each feed
}

func newCopies(tb testing.TB, lives ...life) *copies {
	return &copies{tb: tb, lives: lives, live: newNode(tb, n1, lives...), away: newNode(tb, n1, lives...), signed: map[FeedID]map[uint64]Record{}}
}

// offer has the copies judge a record: all must come to one verdict.
func (c *copies) offer(rec Record) Verdict {
	c.tb.Helper()
	now := t0.Add(time.Hour)
	res := c.live.admit(now, rec)
	for way, n := range c.ways {
		if got := n.admit(now, rec); got.Verdict != res.Verdict {
			c.tb.Fatalf("record %d of %s is %s (%v), and for who %s %s (%v)", rec.Seq, rec.Feed(), res.Verdict, res.Err, way, got.Verdict, got.Err)
		}
	}
	if res.Verdict == Admitted {
		c.signed[rec.Feed()][rec.Seq] = rec
	}
	return res.Verdict
}

// agree makes the copies anew, each in its way, and compares all with the first.
func (c *copies) agree() {
	c.tb.Helper()
	for way, n := range c.ways {
		c.compare(way, n)
	}
	newest := slices.Clone(c.lives)
	slices.Reverse(newest)
	joined, joinedBack := newNode(c.tb, n1, c.lives...), newNode(c.tb, n1, c.lives...)
	exchange(c.lives, c.live, c.away)
	fill(joined, c.live, c.lives)
	fill(joinedBack, c.live, newest)
	c.ways = map[string]*node{"restored it": c.restored(), "joined": joined, "joined from the newest epoch": joinedBack}
	for way, n := range c.ways {
		c.compare(way, n)
	}
	c.compare("was away", c.away)
}

// restored is the first copy read back from its store.
func (c *copies) restored() *node {
	n := newNode(c.tb, n1)
	for _, l := range slices.Backward(c.lives) {
		if err := n.SetKey(l.EpochKey); err != nil {
			c.tb.Fatal(err)
		}
		for seq := c.live.Start(l.Epoch); seq <= c.live.Head(l.Epoch).Seq; seq++ {
			rec := c.live.records[l.Feed()][seq]
			if _, ok, err := n.Restore(rec); !ok || err != nil {
				c.tb.Fatalf("record %d of %s does not come back: %v, %v", seq, l.Feed(), ok, err)
			}
			n.keep(Result{Verdict: Admitted, Record: rec})
		}
		n.Settle()
	}
	return n
}

// exchange lets nodes answer each other until nobody learns anything more.
func exchange(lives []life, nodes ...*node) {
	for again := true; again; {
		again = false
		for _, from := range nodes {
			for _, to := range nodes {
				before := maps.Collect(to.Heads())
				fill(to, from, lives)
				again = again || !maps.Equal(before, maps.Collect(to.Heads()))
			}
		}
	}
}

// fill gives a node what a peer answers, until nothing more comes of it.
func fill(n, from *node, order []life) {
	now := t0.Add(time.Hour)
	for range 2 * len(order) {
		for _, l := range order {
			held := from.records[l.Feed()]
			if h, ok := held[from.Anchor(l.Epoch)]; ok {
				n.Witness(now, h.Signed)
			}
			for seq := max(n.Next(l.Epoch), from.Start(l.Epoch)); seq <= from.Head(l.Epoch).Seq; seq++ {
				n.admit(now, held[seq])
			}
			for _, res := range n.Ready(now) { // as a replica does every second
				n.keep(res)
			}
		}
	}
}

func (c *copies) compare(way string, n *node) {
	c.tb.Helper()
	for _, l := range c.lives {
		a, b := c.live.lines[l.Epoch], n.lines[l.Epoch]
		if a.head() != b.head() || a.start != b.start && len(a.log) > 0 || a.whole() != b.whole() || a.based() != b.based() {
			c.tb.Fatalf("epoch %d: head %+v from %d, for who %s %+v from %d", l.Epoch, a.head(), a.start, way, b.head(), b.start)
		}
		if !maps.Equal(a.live, b.live) || a.bytes != b.bytes {
			c.tb.Fatalf("epoch %d: live %v, for who %s %v", l.Epoch, a.live, way, b.live)
		}
		for seq := a.start; seq < a.next(); seq++ {
			if rec := c.live.records[l.Feed()][seq]; c.live.Counts(rec) != n.Counts(rec) {
				c.tb.Fatalf("record %d of %s counts %v, for who %s %v", seq, l.Feed(), c.live.Counts(rec), way, n.Counts(rec))
			}
		}
	}
}

// next signs the record after an epoch's head, or returns the one that was signed as
// that before. Where the feed begins further on than it was written, ordinary records
// fill the way there: a feed has one history, also where nobody holds it.
func (c *copies) next(l life, h Header, ops ...Op) Record {
	if c.signed[l.Feed()] == nil {
		c.signed[l.Feed()] = map[uint64]Record{}
	}
	history := c.signed[l.Feed()]
	next := c.live.Next(l.Epoch)
	for seq := uint64(1); seq < next; seq++ {
		if _, ok := history[seq]; !ok {
			history[seq] = c.sign(l, Header{Seq: seq}, put(svc, "fill"))
		}
	}
	if rec, ok := history[next]; ok {
		return rec
	}
	h.Seq = next
	if h.Kind == Snapshot && h.Base == 0 {
		h.Base = h.Seq
	}
	return c.sign(l, h, ops...)
}

// sign signs what follows the history up to the header's seq.
func (c *copies) sign(l life, h Header, ops ...Op) Record {
	h.HLC = NewHLC(t0)
	if before, ok := c.signed[l.Feed()][h.Seq-1]; ok {
		h.Prev, h.HLC = before.ID(), before.HLC+1
	}
	return forge(c.tb, l, h, ops...)
}

// restCase is an old epoch of which a snapshot of a newer one leaves the rest of a
// snapshot.
type restCase struct {
	name     string
	parts    []Header // of the old epoch, after one ordinary record
	since    uint64
	then     Header // what may follow
	thenNot  Header // what must not, if anything
	thenKeys int    // live ones after it
}

func part(base uint64, parts uint16) Header { return Header{Kind: Snapshot, Base: base, Parts: parts} }

var restCases = []restCase{
	{"of a complete one", []Header{part(2, 3), part(2, 3), part(2, 3)}, 2, Header{Base: 2}, part(2, 4), 1},
	{"all but the last part is gone", []Header{part(2, 3), part(2, 3), part(2, 3)}, 3, Header{Base: 0}, Header{Base: 4}, 1},
	{"of one under way", []Header{part(2, 4), part(2, 4)}, 2, part(2, 4), part(2, 5), 0},
	{"of one under way, with no part left", []Header{part(2, 4), part(2, 4)}, 3, part(2, 4), Header{}, 0},
	{"of one cut short", []Header{part(2, 1), part(3, 4), part(3, 4), {Base: 2}}, 3, Header{Base: 2}, Header{Base: 1}, 1},
	{"a whole one behind the rest", []Header{part(2, 2), part(2, 2), part(4, 1)}, 2, Header{Base: 4}, Header{Base: 2}, 2},
}

// play offers the records of the case, with the verdict that each must get.
func (tc restCase) play(c *copies, offer func(Record, Verdict)) {
	old, young := c.lives[0], c.lives[1]
	offer(c.next(old, Header{}, put(svc, "1")), Admitted)
	for i, h := range tc.parts {
		op := restated(note(i), "x")
		if h.Kind != Snapshot {
			op = put(svc, "2")
		}
		offer(c.next(old, h, op), Admitted)
	}
	offer(c.next(young, Header{Kind: Snapshot, Parts: 1, Since: []Place{{1, tc.since}}}, restated(svc, "1")), Admitted)
	c.agree()
	if tc.thenNot.Base > 0 {
		offer(c.next(old, tc.thenNot), BadSnapshot)
	}
	then := put(svc, "3")
	if tc.then.Kind == Snapshot {
		then = restated(note(0), "x") // not above those before it
	}
	offer(c.next(old, tc.then, then), Admitted)
	c.agree()
}

func TestRestOfASnapshot(t *testing.T) {
	old, young := newLife(t, n1, 1, true), newLife(t, n1, 2, true)
	for _, tc := range restCases {
		t.Run(tc.name, func(t *testing.T) {
			c := newCopies(t, old, young)
			tc.play(c, func(rec Record, v Verdict) {
				t.Helper()
				if got := c.offer(rec); got != v {
					t.Fatalf("record %d of %s is %s, want %s", rec.Seq, rec.Feed(), got, v)
				}
			})
			if got := len(c.live.lines[1].live); got != tc.thenKeys {
				t.Errorf("%d live keys, want %d", got, tc.thenKeys)
			}
		})
	}
}

// A finding whose last good record lies before a cut feed's start leaves nothing of it,
// no snapshot either.
func TestFreezeOfACutFeed(t *testing.T) {
	old, young := newLife(t, n1, 1, true), newLife(t, n1, 2, true)
	c := newCopies(t, old, young)
	for range 3 {
		c.offer(c.next(old, Header{}, put(svc, "1")))
	}
	c.offer(c.next(young, Header{Kind: Snapshot, Parts: 1, Since: []Place{{1, 2}}}, restated(svc, "1")))
	whole := c.next(old, Header{Kind: Snapshot, Parts: 1}, restated(note(1), "x"))
	c.offer(whole)
	if !c.live.Counts(whole) || c.live.Start(1) != 4 {
		t.Fatalf("the old epoch begins at %d", c.live.Start(1))
	}
	c.live.FreezeAt(1, 3)
	if l := c.live.lines[1]; l.whole() || len(l.log) > 0 || c.live.Counts(whole) {
		t.Error("a snapshot behind the last good record stays in force")
	}
}

// A feed that a newer epoch replaces as a whole has no place for a record any more.
func TestNothingFollowsTheLastSeq(t *testing.T) {
	lives := []life{newLife(t, n1, 1, true), newLife(t, n1, 2, true), newLife(t, n1, 3, true)}
	c := newCopies(t, lives...)
	c.offer(c.next(lives[0], Header{}, put(svc, "1")))
	c.offer(c.next(lives[2], Header{Kind: Snapshot, Parts: 1, Since: []Place{{2, 1}}}, restated(svc, "1")))
	if got := c.live.Start(1); got != maxSeq+1 {
		t.Fatalf("the oldest epoch begins at %d", got)
	}
	h := Header{Kind: Ops, Origin: n1.String(), Epoch: 1, Seq: maxSeq + 1, HLC: NewHLC(t0)}
	if _, err := sign(lives[0].priv, h, nil); !errors.Is(err, ErrRecord) {
		t.Errorf("error %v", err)
	}
	c.agree()
}

// An origin may write and snapshot in two epochs as it likes, honestly or not. Who
// heard it all, who restored or joined it, and who was away judge all that follows
// alike and hold the same.
func FuzzCopiesAgree(f *testing.F) {
	f.Add([]byte{0x00, 0x22, 0x31, 0x31, 0x81, 0xf0, 0x00, 0x32, 0xf0})             // the rest of a complete snapshot
	f.Add([]byte{0x00, 0x20, 0x23, 0x31, 0x0a, 0x82, 0xf0, 0x0a, 0xf0})             // of one cut short
	f.Add([]byte{0x00, 0x23, 0x31, 0xf0, 0x81, 0xf0, 0x31, 0x31, 0xf0, 0x00, 0xf0}) // of one under way
	f.Add([]byte("\x20\x22\x31\x22\x22\x22\xf0"))                                   // two cut short after a complete one
	f.Add([]byte("\x86\x21\x85\x20\x86\xff\x20"))                                   // begun further back than before
	for _, script := range drawn(40) {
		f.Add(script)
	}
	old, young := newLife(f, n1, 1, true), newLife(f, n1, 2, true)
	f.Fuzz(func(t *testing.T, script []byte) { agreeOn(t, old, young, script) })
}

// What the fuzzer would find in a minute, found each time.
func TestCopiesAgree(t *testing.T) {
	old, young := newLife(t, n1, 1, true), newLife(t, n1, 2, true)
	for _, script := range drawn(300) {
		t.Run(fmt.Sprintf("%x", script), func(t *testing.T) { agreeOn(t, old, young, script) })
	}
}

// drawn returns scripts in which all that a feed may do comes about as often.
func drawn(n int) [][]byte {
	kinds := []byte{0x00, 0x10, 0x10, 0x20, 0x30, 0x30, 0x30, 0x40, 0x60, 0x70, 0x80, 0x80, 0xf0}
	draw := rand.New(rand.NewPCG(1, 2))
	scripts := make([][]byte, n)
	for i := range scripts {
		scripts[i] = make([]byte, 8+draw.IntN(20))
		for j := range scripts[i] {
			scripts[i][j] = kinds[draw.IntN(len(kinds))] | byte(draw.IntN(8))
		}
	}
	return scripts
}

func agreeOn(t *testing.T, old, young life, script []byte) {
	if len(script) > 40 {
		return
	}
	c := newCopies(t, old, young)
	c.agree()
	var last Header // part of a snapshot, in either epoch
	for i, b := range script {
		l, low := old, uint64(b&0x0f)
		if b&0x40 != 0 {
			l = young
		}
		op := put(note(i%4), string(script[:min(int(low), len(script))]))
		switch b >> 4 &^ 4 {
		case 0: // any base
			c.offer(c.next(l, Header{Base: min(low, c.live.Next(l.Epoch)-1)}, op))
		case 1: // the one that is due
			c.offer(c.next(l, Header{Base: c.live.Head(l.Epoch).Base}, Op{Key: op.Key, Action: Del, Scope: ScopeRegion}, put(svc, "")))
		case 2: // begin a snapshot
			last = Header{Kind: Snapshot, Base: c.live.Next(l.Epoch), Parts: uint16(low%4) + 1}
			if l.Epoch == 2 && low >= 4 {
				last.Since = []Place{{1, low / 2}}
			}
			c.offer(c.next(l, last, restated(note(i%4), "")))
		case 3: // go on with one
			if next := c.live.Next(l.Epoch); last.Base > 0 && next >= last.Base && next-last.Base < uint64(last.Parts) && (l.Epoch == 2 || last.Since == nil) {
				c.offer(c.next(l, last, restated(note(int(low)), "")))
			}
		case 8, 9: // the newer epoch replaces the older up to here
			c.offer(c.next(young, Header{Kind: Snapshot, Parts: 1, Since: []Place{{1, low + 1}}}, restated(svc, "")))
		default:
			c.agree()
		}
	}
	c.agree()
}
