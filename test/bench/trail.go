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
		note:      "1 writer; ours commits a state change and its leaf together; all wait for the disk once; limit: x/mod/sumdb/tlog over one file, no state",
		prepare:   func(dir string, s size) (sides, error) { return appends(dir, 1, s.pick(200, 2)) },
	},
	{
		area: "trail", name: "append-16", unit: "events/s", higher: true, disk: true,
		reference: "one line of JSON appended to a file and fsynced, for each event",
		note:      "16 writers at once, each waiting for its own event to be durable; limit: x/mod/sumdb/tlog over one file, no state",
		prepare:   func(dir string, s size) (sides, error) { return appends(dir, 16, s.pick(40, 1)) },
	},
	{
		area: "trail", name: "append-64", unit: "events/s", higher: true, disk: true,
		reference: "one line of JSON appended to a file and fsynced, for each event",
		note:      "64 writers at once, each waiting for its own event to be durable; limit: x/mod/sumdb/tlog over one file, no state",
		prepare:   func(dir string, s size) (sides, error) { return appends(dir, 64, s.pick(10, 1)) },
	},
	{
		area: "trail", name: "leaf-bytes", unit: "B/event kept",
		reference: "one line of JSON for each event",
		note:      "at 10 events/s; leaves, tiles and head, without the state file; limit: x/mod/sumdb/tlog by hand",
		prepare:   func(dir string, s size) (sides, error) { return trailBytes(dir, s.pick(52, 2), keptBytes) },
	},
	{
		area: "trail", name: "hour-at-10", unit: "MiB written an hour", once: true,
		reference: "one line of JSON appended to a file and fsynced, for each event",
		note: "10 events/s for 60 s, each durable by itself; idle, nothing is written. Of ours 141 are the state file's journal, a block of 4 KiB for each " +
			"commit: what a disk writes of a line of JSON too, which is counted with its 205 bytes here; limit: x/mod/sumdb/tlog by hand",
		prepare: func(dir string, s size) (sides, error) { return hourAt10(dir, s.pick(60, 2), s.pick(21, 0)) },
	},
	{
		area: "trail", name: "witnessed", unit: "ms from an event to a head with four cosignatures", disk: true,
		reference: "one line of JSON appended and fsynced here, then at four others at once",
		note: "each durable before the next, here and at each witness, all on one disk and without a network between them; ours signs, proves and judges besides. " +
			"A node waits for other leaves before: up to 1 s, where they come all the time 10 s",
		prepare: func(dir string, s size) (sides, error) { return witnessed(dir, s.pick(30, 2)) },
	},
	{
		area: "trail", name: "case-bytes", unit: "kB", once: true,
		reference: "the same 20 leaves as lines of JSON, which prove nothing",
		note:      "a case file of 20 leaves among 100,000, of one node: each with its proof, the genesis, and the report",
		prepare:   caseBytes,
	},
	{
		area: "trail", name: "case-verify", unit: "ms",
		reference: "sha256sum --check of the same entries, unpacked: that they are those of the list, whoever made it",
		note:      "the same file; whole programs with their start; limit: our program saying its version",
		prepare:   caseVerify,
	},
	{
		area: "trail", name: "verify-tree", unit: "leaves/s of one core", higher: true, aim: 300_000,
		reference: "x/mod/sumdb/tlog deriving the root of the same leaves in memory",
		note:      "ours reads the files, parses each leaf, holds sequences, tiles and the signed head against each other; processor time",
		prepare:   func(dir string, s size) (sides, error) { return trailTree(dir, s.pick(100_000, 300)) },
	},
	{
		area: "trail", name: "verify-signed", unit: "statements/s of one core", higher: true, aim: 15_000,
		reference: "crypto/ecdsa VerifyASN1 of P-256, nothing else",
		note:      "statements of 343 bytes, parsed strictly; processor time; ours adds a hash and no big numbers: the goal is met where the reference does some 15,300",
		prepare:   func(_ string, s size) (sides, error) { return trailSigned(s.pick(5000, 20)) },
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
	hand, err := openHandLog(dir)
	if err != nil {
		st.Close()
		log.Close()
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
		limit: race(func() error { return hand.append(body) }),
		stop:  func() { st.Close(); log.Close(); hand.stop() },
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
