package feed

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

func TestChainConvergesInAnyOrder(t *testing.T) {
	l := newLife(t, n1, 1, true)
	recs := write(t, l, t0, 12)
	for _, order := range [][]int{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, {3, 1, 0, 2, 2, 11, 5, 4, 7, 6, 10, 8, 9, 0}} {
		n := newNode(t, n1, l)
		for _, i := range order {
			res := n.admit(t0.Add(time.Second), recs[i])
			if !slices.Contains([]Verdict{Admitted, Duplicate, ParkedGap}, res.Verdict) {
				t.Fatalf("record %d: %s: %v", i, res.Verdict, res.Err)
			}
		}
		if h := n.Head(1); h.Seq != 12 || h.ID != recs[11].ID() {
			t.Fatalf("order %v: head %d, want 12", order, h.Seq)
		}
	}
}

func TestVerdicts(t *testing.T) {
	l, other := newLife(t, n1, 1, true), newLife(t, n1, 1, true)
	recs := write(t, l, t0, 3)
	now := t0.Add(time.Second)
	next := Header{Seq: 4, Prev: recs[2].ID(), HLC: NewHLC(now)}
	garbled := recs[1]
	garbled.body = bytes.Clone(garbled.body)
	garbled.body[len(garbled.body)-1] ^= 1
	long := next
	long.HLC = NewHLC(t0.Add(8 * 24 * time.Hour))
	future := next
	future.HLC = NewHLC(now.Add(time.Minute))
	back := next
	back.HLC = recs[2].HLC
	for _, tc := range []struct {
		name string
		upTo int // records held before
		rec  Record
		want Verdict
	}{
		{"first", 0, recs[0], Admitted},
		{"again", 3, recs[1], Duplicate},
		{"gap", 1, recs[2], ParkedGap},
		{"foreign origin", 0, forge(t, newLife(t, n2, 1, true), Header{Seq: 1, HLC: 1}), UnknownOrigin},
		{"unknown epoch", 0, forge(t, newLife(t, n1, 2, true), Header{Seq: 1, HLC: 1}), UnknownOrigin},
		{"wrong key", 3, forge(t, other, next), BadSignature},
		{"garbage body", 1, garbled, BodyMismatch},
		{"after the certificate", 3, forge(t, l, long), Expired},
		{"future", 3, forge(t, l, future), ParkedFuture},
		{"clock back", 3, forge(t, l, back), ClockBack},
		{"foreign key", 3, forge(t, l, next, put(svc, "x"), put(KeyOf(n2, KindService, "shop"), "x")), ForeignKey},
		{"fork", 3, forge(t, l, Header{Seq: 2, Prev: recs[0].ID(), HLC: recs[1].HLC + 1}), Fork},
		{"wrong prev", 3, forge(t, l, Header{Seq: 4, HLC: next.HLC}), Fork},
		{"unknown kind", 3, forge(t, l, next, put(KeyOf(n1, "gadget", "x"), "x")), Admitted},
		{"operator's kind", 3, forge(t, l, next, put(KeyOf(n1, "x-gadget", "x"), "x")), Admitted},
		{"too large for its kind", 3, forge(t, l, next, put(svc, string(make([]byte, 5<<10)))), Admitted},
		{"false evidence", 3, forge(t, l, next, put(KeyOf(n1, KindEvidence, EvidenceName([32]byte{})), "x")), Admitted},
		{"heartbeat", 3, forge(t, l, next), Admitted},
		{"snapshot", 3, forge(t, l, Header{Kind: Snapshot, Seq: 4, Prev: next.Prev, HLC: next.HLC, Base: 4, Parts: 1}, restated(svc, "x")), Admitted},
		{"leave", 3, forge(t, l, Header{Kind: Leave, Seq: 4, Prev: next.Prev, HLC: next.HLC}), Admitted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, n1, l)
			for _, r := range recs[:tc.upTo] {
				want(t, n.admit(now, r), Admitted)
			}
			want(t, n.admit(now, tc.rec), tc.want)
		})
	}
}

func TestFutureRecordWaitsForTheClock(t *testing.T) {
	l := newLife(t, n1, 1, true)
	recs := write(t, l, t0, 2)
	n := newNode(t, n1, l)
	early := t0.Add(-10 * time.Second)
	want(t, n.admit(early, recs[0]), ParkedFuture)
	want(t, n.admit(early, recs[0]), Duplicate)
	want(t, n.admit(early, recs[1]), ParkedGap)
	if got := n.Deadline(); !got.Equal(t0.Add(-MaxAhead)) {
		t.Fatalf("deadline %s", got)
	}
	if res := n.Ready(n.Deadline()); len(res) != 1 || res[0].Verdict != Admitted {
		t.Fatalf("%d records ready, want the first", len(res))
	}
	if res := n.Ready(n.Deadline()); len(res) != 1 || res[0].Record.Seq != 2 {
		t.Fatalf("%d records ready, want the second", len(res))
	}
}

func TestParkingIsBounded(t *testing.T) {
	l := newLife(t, n1, 1, true)
	recs := write(t, l, t0, maxParked+20)
	n := newNode(t, n1, l)
	for _, r := range slices.Backward(recs[1:]) {
		want(t, n.admit(t0.Add(time.Minute), r), ParkedGap)
	}
	if got := len(n.lines[1].parked); got != maxParked {
		t.Fatalf("%d parked, want %d", got, maxParked)
	}
	want(t, n.admit(t0.Add(time.Minute), recs[0]), Admitted)
	if h := n.Head(1); h.Seq != maxParked+1 {
		t.Fatalf("head %d: the records nearest the head must be the ones kept", h.Seq)
	}
}

func TestQuotas(t *testing.T) {
	l := newLife(t, n1, 1, true)
	limits := LimitsOf("node")
	t.Run("rate by the origin's clock or ours", func(t *testing.T) {
		n := newNode(t, n1, l)
		prev, now := ID{}, t0
		over := 0
		for i := range limits.Burst + 10 { // all within one millisecond of both clocks
			rec := forge(t, l, Header{Seq: uint64(i + 1), Prev: prev, HLC: NewHLC(t0) + HLC(i)})
			res := n.admit(now, rec)
			if res.Verdict == OverQuota {
				over++
				now = now.Add(10 * time.Millisecond) // one more fits by our clock
				res = n.admit(now, rec)
			}
			want(t, res, Admitted)
			prev = rec.ID()
		}
		if over != 10 {
			t.Errorf("%d records over quota, want 10", over)
		}
	})
	t.Run("live keys", func(t *testing.T) {
		n := newNode(t, n1, l)
		w, err := NewWriter(n.Chain, 1, l.priv)
		if err != nil {
			t.Fatal(err)
		}
		n.lines[1].bytes = limits.Bytes - len(svc) - 1
		if err := w.Fits([]Op{put(svc, "xx")}); err == nil {
			t.Error("more live bytes than the class allows")
		}
		if err := w.Fits([]Op{put(svc, "x")}); err != nil {
			t.Error(err)
		}
	})
}

func TestEpochs(t *testing.T) {
	first, second := newLife(t, n1, 1, true), newLife(t, n1, 2, true)
	old := write(t, first, t0, 6)
	restored := newNode(t, n1, first, second) // a disk with four of six records, and a new epoch
	for _, r := range old[:4] {
		want(t, restored.admit(t0.Add(time.Second), r), Admitted)
	}
	young := restored.write(t, second, t0.Add(time.Minute), 2)
	if young[0].Prev != old[3].ID() {
		t.Fatal("a new epoch goes on from the newest record it holds")
	}
	peer := newNode(t, n1, first, second)
	for _, r := range append(slices.Clone(old[:5]), young[0], young[1], old[5]) {
		want(t, peer.admit(t0.Add(2*time.Minute), r), Admitted) // nothing is deleted, nobody is guilty
	}
	for seq, rewound := range map[uint64]bool{3: false, 4: false, 5: true, 6: true} {
		if got := peer.Rewound(1, seq); got != rewound {
			t.Errorf("record %d rewound: %v", seq, got)
		}
	}
	if peer.Rewound(2, 1) {
		t.Error("the newest epoch is never rewound")
	}
	if _, err := NewWriter(peer.Chain, 1, first.priv); err == nil {
		t.Error("an old epoch may not be written")
	}
}

func TestWriterNeverReusesANumber(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	w, err := NewWriter(n.Chain, 1, l.priv)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := w.Next(t0, Draft{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(t0, Draft{}); err == nil {
		t.Fatal("a second record was signed for one number")
	}
	want(t, n.admit(t0, rec), Admitted)
	again, err := w.Next(t0, Draft{})
	if err != nil || again.Seq != 2 || again.HLC <= rec.HLC {
		t.Fatalf("next: %d, %v", again.Seq, err)
	}
	want(t, n.admit(t0, again), Admitted)
	if _, err := w.Next(t0.Add(-time.Second), Draft{}); err == nil {
		t.Error("a clock behind the last record must be an error")
	}
	if _, err := w.Next(t0, Draft{Ops: []Op{put(KeyOf(n2, KindService, "x"), "")}}); err == nil {
		t.Error("a foreign key was signed")
	}
}

func TestRestore(t *testing.T) {
	l := newLife(t, n1, 1, true)
	recs := write(t, l, t0, 5)
	n := newNode(t, n1, l)
	for _, r := range recs {
		if _, ok, err := n.Restore(r); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, _, err := n.Restore(recs[2]); err == nil {
		t.Error("a record that does not continue the chain was taken")
	}
	garbled := forge(t, l, Header{Seq: 6, Prev: recs[4].ID(), HLC: recs[4].HLC + 1}, put(svc, "x"))
	garbled.body = []byte{0x80}
	if _, _, err := n.Restore(garbled); err == nil {
		t.Error("a changed body was taken")
	}
}

func TestLease(t *testing.T) {
	for _, tc := range []struct {
		age  time.Duration
		kind RecordKind
		ttl  uint32
		want Lease
	}{
		{0, Ops, 60, LeaseLive}, {time.Minute, Ops, 60, LeaseLive}, {61 * time.Second, Ops, 60, LeaseDelayed},
		{121 * time.Second, Ops, 60, LeaseStale}, {481 * time.Second, Ops, 60, LeaseExpired},
		{1000 * time.Hour, Ops, 0, LeaseLive}, {0, Leave, 60, LeaseExpired}, {0, 0, 0, LeaseExpired},
	} {
		if got := LeaseAt(NewHLC(t0), tc.kind, tc.ttl, t0.Add(tc.age)); got != tc.want {
			t.Errorf("age %s ttl %d kind %d: %s, want %s", tc.age, tc.ttl, tc.kind, got, tc.want)
		}
	}
}
