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
	counts map[countKey]*uint64
	seen   map[seenKey]*sort
	known  map[*policy.Decision]counters // of recalled decisions, so that one is counted without hashing its names
}

type counters struct {
	count *uint64
	seen  *sort
}

type countKey struct{ kind, level, rule, revision string }

type seenKey struct {
	countKey
	source, target string
}

// sort is what is known of allows that are alike.
type sort struct{ n, every uint64 }

func newTally(now time.Time) tally {
	return tally{from: now, counts: map[countKey]*uint64{}, seen: map[seenKey]*sort{}, known: map[*policy.Decision]counters{}}
}

// every is how many allows of d's sort stand for one that is kept; 0 where none was seen.
func (t *tally) every(d policy.Decision) int {
	if s := t.seen[seenKey{keyOf(d), d.Source, d.Target}]; s != nil {
		return int(s.every)
	}
	return 0
}

// count adds an allow and reports whether it is to be kept whole.
func (t *tally) count(d policy.Decision, every int) bool {
	if len(t.seen) >= maxSeen {
		clear(t.seen)
		clear(t.known)
	}
	k := keyOf(d)
	*counter(t.counts, k)++
	s := counter(t.seen, seenKey{k, d.Source, d.Target})
	if s.every == 0 {
		s.every = uint64(max(every, 1))
	}
	keep := s.n%s.every == 0
	s.n++
	return keep
}

func counter[K comparable, V any](m map[K]*V, k K) *V {
	if m[k] == nil {
		m[k] = new(V)
	}
	return m[k]
}

// repeat adds a recalled allow, or reports that it is to be kept whole, and so to be decided and
// counted with all that is recorded of it.
func (t *tally) repeat(d *policy.Decision) bool {
	c, ok := t.known[d]
	if !ok {
		k := keyOf(*d)
		seen := t.seen[seenKey{k, d.Source, d.Target}]
		if seen == nil {
			return false
		}
		c = counters{counter(t.counts, k), seen}
		if len(t.known) >= maxSeen {
			clear(t.known)
		}
		t.known[d] = c
	}
	if c.seen.n%c.seen.every == 0 {
		return false
	}
	c.seen.n++
	*c.count++
	return true
}

// uncount takes back an allow that became a denial.
func (t *tally) uncount(d policy.Decision) {
	k := keyOf(d)
	if n := t.counts[k]; n == nil || *n <= 1 {
		delete(t.counts, k)
		clear(t.known)
	} else {
		*n--
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
		leaf.Counts = append(leaf.Counts, allowCount{k.kind, k.level, k.rule, k.revision, *n})
	}
	slices.SortFunc(leaf.Counts, func(a, b allowCount) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Level, b.Level), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Revision, b.Revision))
	})
	clear(t.counts)
	clear(t.known)
	t.from = now
	return leaf
}

// back puts counts back that could not be committed.
func (t *tally) back(leaf allowLeaf) {
	t.from = time.UnixMilli(leaf.From)
	for _, c := range leaf.Counts {
		*counter(t.counts, countKey{c.Kind, c.Level, c.Rule, c.Revision}) += c.N
	}
}
