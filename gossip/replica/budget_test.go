package replica

import (
	"math/rand/v2"
	"testing"
	"time"
)

// spender takes frames of a class through a budget for a while, as fast as it lets them,
// and returns the bytes.
func spend(b *budget, now time.Time, d time.Duration, size func() int, c func() class) (by [classes]int) {
	for end := now.Add(d); now.Before(end); {
		of := c()
		if wait := b.wait(of, now); wait > 0 {
			now = now.Add(min(wait, 10*time.Millisecond))
			continue
		}
		n := size()
		b.spend(n)
		by[of] += n
	}
	return by
}

func TestBudgetKeepsItsRate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	now := time.Unix(1_800_000_000, 0)
	for _, rate := range []uint64{300, 2 << 10, 8 << 10, 1 << 20} {
		for _, c := range []class{classEvidence, classState} {
			var b budget
			b.limit(rate, now)
			got := spend(&b, now, time.Minute, func() int { return 1 + rng.IntN(4096) }, func() class { return c })[c]
			most := float64(rate)*(60+2*budgetSpan.Seconds()) + 2*maxFrame
			if least := float64(rate) * 59; float64(got) < least || float64(got) > most {
				t.Errorf("%d bytes a second, class %d: %d bytes in a minute, want %.0f to %.0f", rate, c, got, least, most)
			}
		}
	}
}

// Under a flood of state, what is urgent goes at once; a flood of what is urgent keeps
// to the budget all the same.
func TestBudgetLetsTheUrgentPass(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var b budget
	b.limit(2<<10, now)
	for range 100 {
		for b.wait(classState, now) == 0 {
			b.spend(maxFrame)
		}
		if wait := b.wait(classEvidence, now); wait > 0 {
			t.Fatalf("evidence waits %s behind one frame of state", wait)
		}
		b.spend(1 << 10)
		now = now.Add(20 * time.Second)
	}
	for b.wait(classControl, now) == 0 {
		b.spend(1 << 10)
	}
	if owed := -b.tokens; owed > maxFrame+b.most()+1<<10 {
		t.Errorf("control owes %.0f bytes", owed)
	}
	if b.wait(classState, now) < b.wait(classControl, now) {
		t.Error("state goes before control")
	}
	var none budget
	none.spend(1 << 30)
	if none.wait(classBulk, now) != 0 || none.idle(now) {
		t.Error("the zero value has a limit")
	}
}

func TestBudgetIdles(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var b budget
	b.limit(1000, now)
	if !b.idle(now) {
		t.Error("a full one is not idle")
	}
	b.spend(1000)
	if b.idle(now) || b.idle(now.Add(500*time.Millisecond)) || !b.idle(now.Add(2*time.Second)) {
		t.Error("idle at the wrong time")
	}
	if b.wait(classState, now.Add(-time.Hour)) != 0 || b.tokens > b.most() {
		t.Error("a clock that went back")
	}
}

// Lanes: the urgent ones go first, in their order; nothing of the rest is taken while
// something urgent waits.
func TestQueueLanes(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	q := newQueue()
	for _, c := range []class{classBulk, classState, classControl, classEvidence} {
		q.push(c, []byte{byte(c)})
	}
	if got, _ := q.take(rest, rest, nil, 10, now); len(got) != 0 {
		t.Errorf("the rest before what is urgent: %v", got)
	}
	if got, _ := q.take(urgent, urgent, nil, 10, now); string(got) != "\x00\x01" {
		t.Errorf("urgent: %v", got)
	}
	select {
	case <-q.ready[rest]:
	default:
		t.Error("nobody says that the rest may go")
	}
	if got, _ := q.take(rest, rest, nil, 10, now); string(got) != "\x02\x03" || !q.empty() {
		t.Errorf("rest: %v", got)
	}
	q.limit(1000, now)
	for range 10 {
		q.push(classState, make([]byte, 1000))
		q.push(classEvidence, make([]byte, 100))
	}
	got, wait := q.take(urgent, rest, nil, 1<<20, now)
	if len(got) != 1000+2000 || wait <= 0 || wait > time.Second {
		t.Errorf("%d bytes at once, then a wait of %s", len(got), wait)
	}
	sent, waiting := q.usage()
	if sent[classEvidence] != 1001 || sent[classState] != 2001 || waiting[classState] != 8000 {
		t.Errorf("sent %v, waiting %v", sent, waiting)
	}
	for q.push(classState, make([]byte, 1000)) {
	}
	if q.size > leastQueue || !q.push(classControl, make([]byte, 1000)) {
		t.Errorf("%d bytes wait under a budget of 1000 a second", q.size)
	}
}

func TestTerms(t *testing.T) {
	for _, c := range []struct{ a, b, want Terms }{
		{Terms{}, Terms{}, Terms{}},
		{Terms{Tree, 0}, Terms{Full, 2000}, Terms{Tree, 2000}},
		{Terms{Headers, 1000}, Terms{Tree, 2000}, Terms{Headers, 1000}},
		{Terms{Full, 3000}, Terms{Headers, 2000}, Terms{Headers, 2000}},
	} {
		if got := c.a.with(c.b); got != c.want || c.b.with(c.a) != c.want {
			t.Errorf("%v with %v: %v and %v", c.a, c.b, got, c.b.with(c.a))
		}
	}
	got, err := parseTerms(termsFrame(Terms{Headers, 2048})[frameHead:])
	if err != nil || got != (Terms{Headers, 2048}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, body := range []any{termsBody{1, Full, 0}, termsBody{2, modes, 0}, "x"} {
		if got, err := parseTerms(encode(body)); err == nil {
			t.Errorf("%v is read as %v", body, got)
		}
	}
	if _, err := parseTerms(encode(termsBody{3, Tree, 0})); err != nil {
		t.Errorf("a later version: %v", err)
	}
}

// What packets add is spent too: once for what is written at once, however many frames.
func TestBudgetCountsPackets(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, test := range []struct{ frames, size, want int }{
		{1, 30, 30 + packetOverhead}, {10, 100, 1000 + packetOverhead}, {1, 1201, 1201 + 2*packetOverhead}, {0, 0, 0},
	} {
		q := newQueue()
		q.limit(1<<20, now)
		for range test.frames {
			q.push(classState, make([]byte, test.size))
		}
		before := q.budget.tokens
		q.take(urgent, rest, nil, writeAtOnce, now)
		if got := before - q.budget.tokens; got != float64(test.want) {
			t.Errorf("%d frames of %d bytes cost %.0f, want %d", test.frames, test.size, got, test.want)
		}
	}
}
