package issuer

import (
	"sync"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// journal puts what many calls record at the same time into one transaction, for
// each one costs a write to the disk. It needs no goroutine of its own: of those
// that wait one leads.
type journal struct {
	st *store.Store

	mu    sync.Mutex // held for a few instructions; guards what follows
	queue []*entry
	busy  bool // somebody leads
}

// entry is what one call records.
type entry struct {
	fn   func(*store.Tx) error
	err  error
	done chan bool // false: recorded, or not, as err says; true: lead
}

// maxCommit is how many calls share a transaction.
const maxCommit = 256

// update is store.Update. fn may run more than once; all it sets must be set anew
// each time.
func (j *journal) update(fn func(*store.Tx) error) error {
	e := &entry{fn: fn, done: make(chan bool, 1)}
	j.mu.Lock()
	j.queue = append(j.queue, e)
	lead := !j.busy
	j.busy = true
	j.mu.Unlock()
	if !lead {
		lead = <-e.done
	}
	if !lead {
		return e.err
	}
	j.mu.Lock() // e is the first in the queue
	n := min(maxCommit, len(j.queue))
	batch := j.queue[:n:n]
	j.queue = j.queue[n:]
	j.mu.Unlock()

	j.write(batch)

	j.mu.Lock()
	if len(j.queue) > 0 {
		j.queue[0].done <- true
	} else {
		j.busy = false
	}
	j.mu.Unlock()
	for _, other := range batch[1:] {
		other.done <- false
	}
	return e.err
}

// write records a batch in one transaction. If one of them refuses, none is
// recorded by it, and each gets a transaction of its own.
func (j *journal) write(batch []*entry) {
	refused := false
	err := j.st.Update(func(tx *store.Tx) error {
		for _, e := range batch {
			if err := e.fn(tx); err != nil {
				refused = true
				return err
			}
		}
		return nil
	})
	for _, e := range batch {
		e.err = err
		if refused && len(batch) > 1 {
			e.err = j.st.Update(e.fn)
		}
	}
}
