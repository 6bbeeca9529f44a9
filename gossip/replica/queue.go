package replica

import "sync"

// class is a priority of outgoing frames, the most urgent first.
type class int

const (
	classEvidence class = iota // and certificates
	classControl               // and what authorities signed
	classState
	classBulk
	classes
)

// Bounds of what waits for one peer, in bytes.
const (
	softQueue = 1 << 20 // above it, state and bulk are dropped
	hardQueue = 2 << 20 // above it, the peer is
)

// queue holds the frames for one peer.
type queue struct {
	ready chan struct{} // signalled when there is something to take

	mu     sync.Mutex // guards the rest, held only for slice work
	frames [classes][][]byte
	size   int
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// push adds a frame; it reports false when there is no room for its class.
func (q *queue) push(c class, b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := hardQueue
	if c >= classState {
		limit = softQueue
	}
	if q.size+len(b) > limit {
		return false
	}
	q.frames[c] = append(q.frames[c], b)
	q.size += len(b)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

// take appends waiting frames to buf, the most urgent first, until it holds
// about limit bytes.
func (q *queue) take(buf []byte, limit int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c := range q.frames {
		n := 0
		for ; n < len(q.frames[c]) && len(buf) < limit; n++ {
			buf = append(buf, q.frames[c][n]...)
			q.size -= len(q.frames[c][n])
			q.frames[c][n] = nil
		}
		if q.frames[c] = q.frames[c][n:]; len(q.frames[c]) == 0 {
			q.frames[c] = nil
		}
	}
	return buf
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size == 0
}
