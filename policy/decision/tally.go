package decision

import (
	"cmp"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// maxSeen bounds the memory of what was allowed before. When it is full it starts over, so that a
// few allows are kept once more.
const maxSeen = 4096

// tally counts allows between two flushes.
type tally struct {
	from   time.Time
	counts map[countKey]uint64
	seen   map[seenKey]uint64
}

type countKey struct{ kind, level, rule, revision string }

type seenKey struct {
	countKey
	source, target string
}

func newTally(now time.Time) tally {
	return tally{from: now, counts: map[countKey]uint64{}, seen: map[seenKey]uint64{}}
}

// count adds an allow and reports whether it is to be kept whole.
func (t *tally) count(d policy.Decision, every int) bool {
	k := keyOf(d)
	t.counts[k]++
	s := seenKey{k, d.Source, d.Target}
	if d.Kind == policy.StateAdmit {
		s.target = "" // every key is another target
	}
	if len(t.seen) >= maxSeen {
		clear(t.seen)
	}
	n := t.seen[s]
	t.seen[s]++
	return n%uint64(every) == 0
}

// uncount takes back an allow that became a denial.
func (t *tally) uncount(d policy.Decision) {
	k := keyOf(d)
	if t.counts[k]--; t.counts[k] == 0 {
		delete(t.counts, k)
	}
}

func keyOf(d policy.Decision) countKey {
	return countKey{string(d.Kind), d.Level, d.Rule, d.Revision}
}

// allowLeaf is the body of a decision.allow leaf.
type allowLeaf struct {
	From   int64        `cbor:"from"` // Unix milliseconds
	To     int64        `cbor:"to"`
	Counts []allowCount `cbor:"counts"`
}

type allowCount struct {
	Kind     string `cbor:"kind"`
	Level    string `cbor:"level"`
	Rule     string `cbor:"rule"`
	Revision string `cbor:"revision"`
	N        uint64 `cbor:"n"`
}

// take returns the counts so far and starts anew.
func (t *tally) take(now time.Time) allowLeaf {
	leaf := allowLeaf{From: t.from.UnixMilli(), To: now.UnixMilli()}
	for k, n := range t.counts {
		leaf.Counts = append(leaf.Counts, allowCount{k.kind, k.level, k.rule, k.revision, n})
	}
	slices.SortFunc(leaf.Counts, func(a, b allowCount) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Level, b.Level), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Revision, b.Revision))
	})
	clear(t.counts)
	t.from = now
	return leaf
}

// back puts counts back that could not be committed.
func (t *tally) back(leaf allowLeaf) {
	t.from = time.UnixMilli(leaf.From)
	for _, c := range leaf.Counts {
		t.counts[countKey{c.Kind, c.Level, c.Rule, c.Revision}] += c.N
	}
}
