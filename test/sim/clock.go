package sim

import (
	"container/heap"
	"hash/crc32"
	"time"
)

// epoch is when every run begins.
var epoch = time.Date(2026, 1, 5, 9, 0, 1, 0, time.UTC)

// event is something that happens at a time of the run.
type event struct {
	at    time.Duration
	order uint64 // of events at one time: as they were planned
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

// clock is virtual time: it stands still while something happens, and goes on to the
// next event.
type clock struct {
	elapsed time.Duration
	planned uint64
	queue   events
	trace   uint64 // hash of all that happened
}

// now is the time for the nodes.
func (c *clock) now() time.Time { return epoch.Add(c.elapsed) }

// at plans do for a time; for now when that is over.
func (c *clock) at(t time.Duration, do func()) {
	c.planned++
	heap.Push(&c.queue, event{max(t, c.elapsed), c.planned, do})
}

// after plans do.
func (c *clock) after(d time.Duration, do func()) { c.at(c.elapsed+d, do) }

// run lets time pass up to until.
func (c *clock) run(until time.Duration) {
	for len(c.queue) > 0 && c.queue[0].at <= until {
		e := heap.Pop(&c.queue).(event)
		c.elapsed = e.at
		e.do()
	}
	c.elapsed = until
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mark puts something that happened into the trace.
func (c *clock) mark(what byte, a, b int, content []byte) {
	for _, x := range [...]uint64{uint64(c.elapsed), uint64(what), uint64(a), uint64(b), uint64(crc32.Checksum(content, castagnoli))} {
		c.trace = (c.trace ^ x) * 0x100000001b3 // FNV-1a, a word at a time
		c.trace ^= c.trace >> 29
	}
}
