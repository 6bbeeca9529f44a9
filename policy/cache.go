package policy

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// cache remembers the decisions of one generation by their keys (view.answerKey). It never locks:
// a key may live in one of four places, and a new one replaces what was not asked for lately.
type cache struct {
	seed maphash.Seed
	sets []cacheSet // a power of two
}

type cacheSet [4]atomic.Pointer[remembered]

// remembered is one decision. Only used changes.
type remembered struct {
	hash     uint64
	key      string
	decision Decision // without its input
	used     atomic.Bool
}

// defaultCache is how many decisions a generation remembers; about 1 KB each.
const defaultCache = 8192

// newCache has room for at least the given number of decisions.
func newCache(size int) *cache {
	sets := (max(size, 1) + len(cacheSet{}) - 1) / len(cacheSet{})
	return &cache{seed: maphash.MakeSeed(), sets: make([]cacheSet, 1<<bits.Len(uint(sets-1)))}
}

func (c *cache) set(key []byte) (hash uint64, set *cacheSet) {
	hash = maphash.Bytes(c.seed, key)
	return hash, &c.sets[hash&uint64(len(c.sets)-1)]
}

// get returns the decision of a key, nil where it is not known. It is read only.
func (c *cache) get(key []byte) *Decision {
	hash, set := c.set(key)
	for i := range set {
		if r := set[i].Load(); r != nil && r.hash == hash && r.key == string(key) {
			if !r.used.Load() {
				r.used.Store(true)
			}
			return &r.decision
		}
	}
	return nil
}

func (c *cache) put(key []byte, d Decision) {
	hash, set := c.set(key)
	d.Input = nil
	victim := int(hash >> 62)
	for i := range set {
		r := set[i].Load()
		if r == nil || r.hash == hash && r.key == string(key) {
			victim = i
			break
		}
		if !r.used.Swap(false) {
			victim = i
		}
	}
	set[victim].Store(&remembered{hash: hash, key: string(key), decision: d})
}
