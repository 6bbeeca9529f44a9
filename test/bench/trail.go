package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

var trailBenches = []bench{
	{
		area: "trail", name: "append-1", unit: "events/s", higher: true, disk: true,
		reference: "one line of JSON appended to a file and fsynced, for each event",
		note:      "1 writer; ours commits a state change and its leaf in one bbolt transaction, which waits for the disk twice",
		prepare:   func(dir string, s size) (sides, error) { return appends(dir, 1, s.pick(200, 2)) },
	},
	{
		area: "trail", name: "append-64", unit: "events/s", higher: true, disk: true,
		reference: "one line of JSON appended to a file and fsynced, for each event",
		note:      "64 writers at once, each waiting for its own event to be durable",
		prepare:   func(dir string, s size) (sides, error) { return appends(dir, 64, s.pick(10, 1)) },
	},
}

// appends prepares writers that append each events, every one durable before
// the writer's next.
func appends(dir string, writers, each int) (sides, error) {
	st, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return sides{}, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log.json"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		st.Close()
		return sides{}, err
	}
	body := make([]byte, 200)
	var mu sync.Mutex // of log: one line after another
	race := func(one func() error) func() (float64, error) {
		return func() (float64, error) {
			return perSecond(writers*each, func() error { return together(writers, each, one) })
		}
	}
	return sides{
		ours: race(func() error {
			return st.Update(func(tx *store.Tx) error {
				if err := tx.Put("bench/state", []byte("key"), body); err != nil {
					return err
				}
				return tx.Leaf("bench", body)
			})
		}),
		reference: race(func() error {
			line, err := json.Marshal(map[string]any{"time": time.Now(), "kind": "bench", "body": body})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if _, err := log.Write(append(line, '\n')); err != nil {
				return err
			}
			return log.Sync()
		}),
		stop: func() { st.Close(); log.Close() },
	}, nil
}

// together runs one each times in every one of n goroutines and returns the
// first error.
func together(n, each int, one func() error) error {
	errs := make(chan error, n)
	for range n {
		go func() {
			for range each {
				if err := one(); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}
