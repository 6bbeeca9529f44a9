package trail

import "time"

// How many routine leaves are a batch that waits for no more, and how much longer than a prompt
// one a routine leaf waits.
const (
	manyRoutine  = 1024
	routineDelay = 10
)

// cadence says when to drain next. A drain writes the right edge of the tree anew, three or four
// small files with their metadata, whether it brings one leaf or a hundred; and then each witness
// writes what it cosigned. So leaves that come all the time come together. After a quiet while
// any leaf is drained at once.
type cadence struct {
	every time.Duration // between two drains, at least
	last  time.Time     // of the drain before
	due   time.Time     // of the next one; zero: nothing waits
	seen  uint64        // sequence of the last leaf that came did look at
	many  int           // leaves that came since the last drain
}

// came takes note of the kinds of new leaves.
func (c *cadence) came(kinds []string) {
	for _, k := range kinds {
		if c.many++; routine[k] && c.many < manyRoutine {
			c.by(routineDelay * c.every)
		} else {
			c.by(c.every)
		}
	}
}

// hurry is for what waits and is no leaf yet.
func (c *cadence) hurry() { c.by(c.every) }

// drained begins to count anew. After a failure the next drain is due without anything new.
func (c *cadence) drained(now time.Time, err error) {
	c.last, c.due, c.many = now, time.Time{}, 0
	if err != nil {
		c.hurry()
	}
}

func (c *cadence) by(d time.Duration) {
	if at := c.last.Add(d); c.due.IsZero() || at.Before(c.due) {
		c.due = at
	}
}
