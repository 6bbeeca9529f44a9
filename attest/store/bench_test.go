package store

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// One update is like the issuer's: a record of 300 bytes and a leaf of 200. Set
// TMPDIR to a disk where /tmp is memory, which costs no waiting.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "state.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			var n atomic.Uint64
			before := cpuTime(b)
			b.ResetTimer()
			done := make(chan error)
			for range writers {
				go func() {
					for {
						i := n.Add(1)
						if i > uint64(b.N) {
							done <- nil
							return
						}
						key := binary.BigEndian.AppendUint64(nil, i%1000)
						err := s.Update(func(tx *Tx) error {
							if err := tx.Put("bench/records", key, make([]byte, 300)); err != nil {
								return err
							}
							return tx.Leaf("bench.issue", make([]byte, 200))
						})
						if err != nil {
							done <- err
							return
						}
					}
				}()
			}
			for range writers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			cpu := cpuTime(b) - before
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}

// cpuTime is what this process has used of all cores.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
