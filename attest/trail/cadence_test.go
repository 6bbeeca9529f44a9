package trail

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

func TestCadence(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	many := make([]string, manyRoutine)
	for i := range many {
		many[i] = DecisionDeny.name
	}
	for name, tt := range map[string]struct {
		do   func(*cadence)
		want time.Duration // after the drain before; negative: never
	}{
		"nothing":              {func(*cadence) {}, -1},
		"no leaf":              {func(c *cadence) { c.came(nil) }, -1},
		"routine":              {func(c *cadence) { c.came([]string{StateIn.name}); c.came([]string{DecisionDeny.name}) }, 10 * time.Second},
		"routine, then prompt": {func(c *cadence) { c.came([]string{StateIn.name, PeerFinding.name}) }, time.Second},
		"prompt, then routine": {func(c *cadence) { c.came([]string{AdminAction.name}); c.came([]string{StateIn.name}) }, time.Second},
		"of a newer version":   {func(c *cadence) { c.came([]string{"never.heard"}) }, time.Second},
		"a gap":                {func(c *cadence) { c.came([]string{StateIn.name}); c.hurry() }, time.Second},
		"just not many":        {func(c *cadence) { c.came(many[1:]) }, 10 * time.Second},
		"many":                 {func(c *cadence) { c.came(many[:1000]); c.came(many[1000:]) }, time.Second},
		"after a failure":      {func(c *cadence) { c.drained(start.Add(time.Minute), errors.New("full")) }, time.Minute + time.Second},
	} {
		c := cadence{every: time.Second}
		c.drained(start, nil)
		tt.do(&c)
		if got := c.due.Sub(start); c.due.IsZero() != (tt.want < 0) || tt.want >= 0 && got != tt.want {
			t.Errorf("%s: due after %v, want %v", name, got, tt.want)
		}
	}
}

// Routine leaves that come all the time are ten seconds late and no more; what is not routine, or
// comes after a quiet while, has its head within a second.
func TestRoutineLeavesWaitForEachOther(t *testing.T) {
	outer := newBench(t)
	outer.cfg.Every = 0
	synctest.Test(t, func(t *testing.T) {
		b := *outer
		if err := b.s.Close(); err != nil {
			t.Fatal(err)
		}
		b.TB = t
		b.openStore()
		tr := b.open()
		heads, late := 0, time.Duration(0)
		size, durable := tr.Head().Size, map[uint64]time.Time{}
		seen := func() {
			synctest.Wait()
			if now := tr.Head().Size; now > size {
				for ; size < now; size++ {
					late = max(late, time.Since(durable[size]))
				}
				heads++
			}
		}
		put := func(k Kind) {
			t.Helper()
			if err := b.s.Update(func(tx *store.Tx) error { return Append(tx, k, map[string]int{"n": 1}) }); err != nil {
				t.Fatal(err)
			}
			durable[size+uint64(b.waiting())-1] = time.Now()
			seen()
		}
		for range 600 { // a minute, ten a second
			put(DecisionDeny)
			time.Sleep(100 * time.Millisecond)
			seen()
		}
		if heads < 6 || heads > 7 || late < 9*time.Second || late > 10*time.Second {
			t.Errorf("%d heads in a minute, the latest leaf waited %v", heads, late)
		}
		heads, late = 0, 0
		put(PeerFinding)
		time.Sleep(time.Second)
		if seen(); heads != 1 || b.waiting() != 0 {
			t.Errorf("a finding waits: %d heads, %d leaves", heads, b.waiting())
		}
		time.Sleep(10 * time.Second)
		put(StateIn)
		time.Sleep(time.Millisecond)
		if seen(); heads != 2 || b.waiting() != 0 {
			t.Errorf("after a quiet while: %d heads, %d leaves wait", heads, b.waiting())
		}
		b.close(tr)
		if err := b.s.Close(); err != nil {
			t.Fatal(err)
		}
		b.wantGood(604)
	})
}

func (b *bench) waiting() int {
	b.Helper()
	n, err := b.s.Pending()
	if err != nil {
		b.Fatal(err)
	}
	return n
}
