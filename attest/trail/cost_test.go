package trail

import (
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// BenchmarkVerify is the whole check of a trail, per leaf.
func BenchmarkVerify(b *testing.B) {
	n := newBench(b)
	tr := n.open()
	const leaves = 50_000
	n.put(0, leaves)
	n.flush(tr)
	n.close(tr)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		n.wantGood(leaves + 2)
	}
	b.ReportMetric(float64(b.N)*leaves/b.Elapsed().Seconds(), "leaves/s")
}

// BenchmarkDrain is one leaf from its transaction to the signed head.
func BenchmarkDrain(b *testing.B) {
	n := newBench(b)
	tr := n.open()
	for b.Loop() {
		if err := n.s.Update(func(tx *store.Tx) error { return Append(tx, StateOut, map[string]uint64{"n": 1}) }); err != nil {
			b.Fatal(err)
		}
		n.flush(tr)
	}
	n.close(tr)
}
