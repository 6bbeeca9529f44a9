package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// leafBody is an event of the usual size: some 120 bytes.
var leafBody = map[string]any{
	"id": "4f1d0a37c2b94e7f8a6d5b3c2e1f0a99", "rule": "shop-calls-charts", "source": "spiffe://east.example.org/workload/shop", "target": "charts",
}

// trailBytes prepares the writing of seconds of ten events each, with a drain after each second, as
// a node does it. figure says what is counted, given the folder and the bytes that were written.
func trailBytes(dir string, seconds int, figure func(folder string, written uint64, events int) float64) (sides, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides{}, err
	}
	const perSecond = 10
	round := 0
	counted := func(do func(folder string) error) (float64, error) {
		round++
		folder := filepath.Join(dir, fmt.Sprint(round))
		if err := os.Mkdir(folder, 0o700); err != nil {
			return 0, err
		}
		defer os.RemoveAll(folder)
		before, err := writtenBytes()
		if err == nil {
			err = do(folder)
		}
		after, rerr := writtenBytes()
		if err != nil || rerr != nil {
			return 0, fmt.Errorf("%w, %w", err, rerr)
		}
		return figure(folder, after-before, seconds*perSecond), nil
	}
	return sides{
		ours: func() (float64, error) {
			return counted(func(folder string) error {
				st, err := store.Open(filepath.Join(folder, "state.db"))
				if err != nil {
					return err
				}
				defer st.Close()
				tr, err := trail.Open(trail.Config{Dir: filepath.Join(folder, "trail"), Node: spiffeid.RequireFromString("spiffe://east.example.org/node/n1"), Epoch: 1, Key: key, Store: st, Every: time.Hour})
				if err != nil {
					return err
				}
				for range seconds {
					for range perSecond {
						if err := st.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.DecisionDeny, leafBody) }); err != nil {
							return err
						}
					}
					if err := tr.Flush(context.Background()); err != nil {
						return err
					}
				}
				return tr.Close()
			})
		},
		reference: func() (float64, error) {
			return counted(func(folder string) error {
				f, err := os.Create(filepath.Join(folder, "log.json"))
				if err != nil {
					return err
				}
				defer f.Close()
				for range seconds * perSecond {
					line, err := json.Marshal(map[string]any{"time": time.Now(), "kind": "decision.deny", "body": leafBody})
					if err != nil {
						return err
					}
					if _, err := f.Write(append(line, '\n')); err != nil {
						return err
					}
					if err := f.Sync(); err != nil {
						return err
					}
				}
				return nil
			})
		},
		limit: func() (float64, error) {
			return counted(func(folder string) error {
				l, err := openHandLog(folder)
				if err != nil {
					return err
				}
				defer l.stop()
				for range seconds * perSecond {
					body, err := json.Marshal(leafBody)
					if err != nil {
						return err
					}
					if err := l.append(body); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}, nil
}

// hourAt10 prepares an hour of ten events a second, of which some seconds are lived through: the pace of the
// trail, and of the state file, is by the clock. The first seconds do not count, in which the journal's
// places are made.
func hourAt10(dir string, seconds, unwatched int) (sides, error) {
	made, err := trailBytes(dir, seconds, hourlyMiB)
	if err != nil {
		return sides{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides{}, err
	}
	made.ours = func() (float64, error) {
		st, err := store.Open(filepath.Join(dir, "state.db"))
		if err != nil {
			return 0, err
		}
		defer st.Close()
		tr, err := trail.Open(trail.Config{Dir: filepath.Join(dir, "trail"), Node: spiffeid.RequireFromString("spiffe://east.example.org/node/n1"), Epoch: 1, Key: key, Store: st})
		if err != nil {
			return 0, err
		}
		defer tr.Close()
		tick := time.NewTicker(time.Second / 10)
		defer tick.Stop()
		live := func(events int) error {
			for range events {
				<-tick.C
				if err := st.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.DecisionDeny, leafBody) }); err != nil {
					return err
				}
			}
			return nil
		}
		if err := live(10 * unwatched); err != nil {
			return 0, err
		}
		before, err := writtenBytes()
		if err == nil {
			err = live(10 * seconds)
		}
		after, rerr := writtenBytes()
		return hourlyMiB("", after-before, 10*seconds), errors.Join(err, rerr)
	}
	return made, nil
}

// keptBytes is what the files of a trail, or of a log, have per event.
func keptBytes(folder string, _ uint64, events int) float64 {
	total := int64(0)
	_ = filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "state.db") || strings.Contains(path, ".state") {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return nil
	})
	return float64(total) / float64(events)
}

// hourlyMiB is what an hour of such seconds writes.
func hourlyMiB(_ string, written uint64, events int) float64 {
	return float64(written) / float64(events) * 36000 / (1 << 20)
}

// writtenBytes is what this process has handed to write calls so far.
func writtenBytes() (n uint64, err error) {
	raw, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw), "wchar: ")
	if !ok {
		return 0, fmt.Errorf("/proc/self/io has no wchar")
	}
	_, err = fmt.Sscan(rest, &n)
	return n, err
}
