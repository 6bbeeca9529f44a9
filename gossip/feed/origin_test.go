package feed

import (
	"slices"
	"testing"
	"time"
)

func epochsOf(tb testing.TB, n int) (lives []life) {
	for epoch := range n {
		lives = append(lives, newLife(tb, n1, uint64(epoch+1), true))
	}
	return lives
}

// chainOf forges records of one feed, one after the other, all dated at at.
func chainOf(tb testing.TB, l life, at time.Time, count int) (recs []Record) {
	h := Header{HLC: NewHLC(at)}
	for range count {
		h.Seq++
		h.HLC++
		rec := forge(tb, l, h, put(svc, "1"))
		h.Prev = rec.ID()
		recs = append(recs, rec)
	}
	return recs
}

// New epochs give an origin no new bucket.
func TestEpochsShareTheBucket(t *testing.T) {
	lives := epochsOf(t, 4)
	n := newNode(t, n1, lives...)
	limits := LimitsOf(lives[0].Class)
	share := limits.Burst * 2 / 5
	admitted := 0
	for _, l := range lives {
		for _, rec := range chainOf(t, l, t0, share) { // dated as they please
			if n.admit(t0, rec).Verdict == Admitted {
				admitted++
			}
		}
	}
	if most := limits.Burst + limits.Rate; admitted > most || admitted < limits.Burst {
		t.Errorf("%d records at once over four epochs, want %d", admitted, limits.Burst)
	}
}

// Records are kept of the newest epochs only, and what waits is bounded over all.
func TestEpochsShareTheRoom(t *testing.T) {
	lives := epochsOf(t, 6)
	n := newNode(t, n1, lives...)
	now := t0.Add(time.Minute)
	for _, l := range lives {
		recs := chainOf(t, l, t0, maxParked+2)
		want(t, n.admit(now, recs[0]), Admitted)
		for _, rec := range recs[2:] {
			want(t, n.admit(now, rec), ParkedGap)
		}
	}
	waiting := 0
	for _, l := range n.lines {
		waiting += len(l.parked)
	}
	if waiting != maxParked || len(n.lines[6].parked) != maxParked {
		t.Errorf("%d records wait, %d of the newest epoch", waiting, len(n.lines[6].parked))
	}
	var held []uint64
	for f := range n.Heads() {
		held = append(held, f.Epoch)
	}
	if slices.Sort(held); !slices.Equal(held, []uint64{4, 5, 6}) {
		t.Errorf("records of epochs %v are kept", held)
	}
	var gone []uint64
	for _, span := range n.Gone() {
		gone = append(gone, span.Feed.Epoch)
	}
	if !slices.Equal(gone, []uint64{1, 2, 3}) || len(n.Gone()) > 0 {
		t.Errorf("given up: epochs %v", gone)
	}
	first := chainOf(t, lives[1], t0, 1)[0]
	want(t, n.admit(now, first), Pruned)
	if n.Missing(2, 1) != 0 {
		t.Error("what may not be kept is missed")
	}
	n.FreezeAt(6, 0) // one feed fewer
	want(t, n.admit(now, chainOf(t, lives[2], t0, 1)[0]), Admitted)
}

// Parts of snapshots that are begun and never come to their end are bounded over all
// epochs.
func TestEpochsShareTheGathering(t *testing.T) {
	lives := epochsOf(t, 12)
	n := newNode(t, n1, lives...)
	big := slices.Repeat([]byte("x"), 15<<10)
	limit := 2 * LimitsOf(lives[0].Class).Feed
	size := func() (bytes int) {
		for _, l := range n.lines {
			for _, p := range l.parts {
				bytes += len(p.Bytes())
			}
		}
		return bytes
	}
	now := t0.Add(time.Hour)
	for _, l := range lives {
		n.Witness(now, forge(t, l, Header{Seq: 2000, HLC: NewHLC(t0), Base: 900}).Signed)
		h := Header{Kind: Snapshot, Seq: 900, Base: 900, Parts: 1000, HLC: NewHLC(t0)}
		for i := range 60 { // the live bytes of one snapshot allow no more
			rec := forge(t, l, h, restated(note(i), string(big)))
			want(t, n.admit(now, rec), ParkedPart)
			h.Seq, h.HLC, h.Prev = h.Seq+1, h.HLC+1, rec.ID()
			n.signed, n.met = pace{}, pace{} // rates are another matter
		}
		if size() > limit {
			t.Fatalf("%d bytes are gathered, at most %d", size(), limit)
		}
	}
	if size() < limit*3/4 || len(n.lines[12].parts) != 60 || len(n.lines[1].parts) != 0 {
		t.Errorf("%d bytes are gathered, %d parts of the newest epoch", size(), len(n.lines[12].parts))
	}
}
