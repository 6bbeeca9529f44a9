package replica

import (
	"context"
	"sync"
)

// notices calls the On callbacks in order from one goroutine, so that they may
// call the replica. It grows with findings, which are few, and forgets none.
type notices struct {
	mu    *sync.Mutex // guards queue, held for slice work
	queue *[]func()
	ready chan struct{}
}

func newNotices() notices {
	return notices{mu: new(sync.Mutex), queue: new([]func()), ready: make(chan struct{}, 1)}
}

func (n notices) add(fn func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*n.queue = append(*n.queue, fn)
	select {
	case n.ready <- struct{}{}:
	default:
	}
}

func (n notices) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.ready:
		}
		n.call()
	}
}

// call calls what is due.
func (n notices) call() {
	n.mu.Lock()
	due := *n.queue
	*n.queue = nil
	n.mu.Unlock()
	for _, fn := range due {
		fn()
	}
}
