package replica

import (
	"sync"
	"time"
)

// class is a priority of outgoing frames, the most urgent first.
type class int

const (
	classEvidence class = iota // and certificates
	classControl               // and what authorities signed
	classState
	classBulk
	classes
)

// lane is a stream that some classes share.
type lane int

const (
	urgent lane = iota // evidence and control
	rest               // state and bulk
	lanes
)

func (c class) lane() lane {
	if c < classState {
		return urgent
	}
	return rest
}

// Bounds of what waits for one peer, in bytes.
const (
	softQueue  = 1 << 20          // above it, state and bulk are dropped
	hardQueue  = 2 << 20          // above it, the peer is
	leastQueue = 2 * maxFrame     // softQueue is no less than this under a budget,
	queueSpan  = 10 * time.Second // and what it lets through in so long
)

// queue holds the frames for one peer, and the budget they are sent by.
type queue struct {
	ready [lanes]chan struct{} // signalled when there may be something to take

	mu     sync.Mutex // guards the rest, held only for slice work
	frames [classes][][]byte
	size   int
	soft   int
	budget budget
	sent   [classes]uint64
	left   [classes]uint64 // frames taken
}

func newQueue() *queue {
	q := &queue{soft: softQueue}
	for l := range q.ready {
		q.ready[l] = make(chan struct{}, 1)
	}
	return q
}

// limit sets the budget, in bytes a second; 0: none.
func (q *queue) limit(rate uint64, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.budget.limit(rate, now)
	q.soft = softQueue
	if rate > 0 && rate < softQueue {
		q.soft = min(softQueue, max(leastQueue, int(rate)*int(queueSpan/time.Second)))
	}
}

// rate is the budget in bytes a second, zero without one.
func (q *queue) rate() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.budget.rate
}

// push adds a frame; it reports false when there is no room for its class.
func (q *queue) push(c class, b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := hardQueue
	if c >= classState {
		limit = q.soft
	}
	//bailiwick:check TestSlowReader
	if q.size+len(b) > limit {
		return false
	}
	q.frames[c] = append(q.frames[c], b)
	q.size += len(b)
	q.signal(c.lane())
	return true
}

func (q *queue) signal(l lane) {
	select {
	case q.ready[l] <- struct{}{}:
	default:
	}
}

// take appends waiting frames of the lanes up to last to buf, the most urgent first,
// until it holds about limit bytes or the budget is spent; how long the next has to wait
// then is told. Nothing is taken for a lane while another before it has frames.
func (q *queue) take(first, last lane, buf []byte, limit int, now time.Time) ([]byte, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	out, wait := q.takeFrames(first, last, buf, limit, now)
	q.budget.spend(overhead(len(out) - len(buf)))
	return out, wait
}

func (q *queue) takeFrames(first, last lane, buf []byte, limit int, now time.Time) ([]byte, time.Duration) {
	for c := range classes {
		if c.lane() > last {
			break
		}
		if c.lane() < first {
			if len(q.frames[c]) > 0 {
				return buf, 0 // its taker signals
			}
			continue
		}
		n := 0
		for ; n < len(q.frames[c]) && len(buf) < limit; n++ {
			b := q.frames[c][n]
			if wait := q.budget.wait(c, now); wait > 0 {
				q.taken(c, n)
				return buf, wait
			}
			q.budget.spend(len(b))
			q.sent[c] += uint64(len(b))
			buf = append(buf, b...)
			q.size -= len(b)
			q.frames[c][n] = nil
		}
		q.taken(c, n)
	}
	if last < rest {
		q.signal(rest) // nothing urgent waits now
	}
	return buf, 0
}

func (q *queue) taken(c class, n int) {
	q.left[c] += uint64(n)
	if q.frames[c] = q.frames[c][n:]; len(q.frames[c]) == 0 {
		q.frames[c] = nil
	}
}

// outside spends the budget on bytes that are no frames, and go as state does. Where it has none
// left it spends nothing, and tells how long that has to wait.
func (q *queue) outside(bytes int, now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := q.budget.wait(classState, now)
	if wait == 0 {
		q.budget.spend(bytes + overhead(bytes))
	}
	return wait
}

// full reports whether there is no room for state and bulk of any size.
func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size > q.soft-maxFrame
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size == 0
}

// passed returns how many frames of a class were taken so far, and how many were added.
func (q *queue) passed(c class) (left, added uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.left[c], q.left[c] + uint64(len(q.frames[c]))
}

// clear reports whether no state and bulk waits.
func (q *queue) clear() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames[classState])+len(q.frames[classBulk]) == 0
}

// spare reports whether nothing waits and the budget has lain unused.
func (q *queue) spare(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size == 0 && q.budget.idle(now)
}

// usage returns the bytes sent and waiting, by class.
func (q *queue) usage() (sent, waiting [classes]uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c := range waiting {
		for _, b := range q.frames[c] {
			waiting[c] += uint64(len(b))
		}
	}
	return q.sent, waiting
}
