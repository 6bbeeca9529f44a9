package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// ruleCache remembers what rules gave within one evaluation (topdown.VirtualCache). OPA's own has a
// hash table for each part of each name, which made a fifth of what a decision allocates. Few names
// are asked for in one evaluation, so here they are a list, and only a long one has an index. It
// belongs to one goroutine.
type ruleCache struct {
	frames []ruleFrame // the last is in use; only tests have more, by the keyword with
}

type ruleFrame struct {
	known []knownRule
	index map[int]int // from the hash of a name to its newest place in known; nil while that is short
}

type knownRule struct {
	hash  int
	older int // the place before it with the same hash in an index, -1: none
	ref   ast.Ref
	value *ast.Term // nil: undefined
}

// shortList is how many names are looked through one by one.
const shortList = 16

func newRuleCache() *ruleCache { return &ruleCache{frames: make([]ruleFrame, 1)} }

// forget makes it as new, but for its room.
func (c *ruleCache) forget() {
	c.frames = c.frames[:1]
	f := &c.frames[0]
	if len(f.known) > shortList {
		*f = ruleFrame{}
		return
	}
	clear(f.known)
	f.known = f.known[:0]
}

// Push begins a frame in which nothing is known.
func (c *ruleCache) Push() { c.frames = append(c.frames, ruleFrame{}) }

// Pop ends it.
func (c *ruleCache) Pop() {
	c.frames[len(c.frames)-1] = ruleFrame{}
	c.frames = c.frames[:len(c.frames)-1]
}

func (c *ruleCache) frame() *ruleFrame { return &c.frames[len(c.frames)-1] }

// Get returns what a name stands for, or true where that is known to be undefined.
func (c *ruleCache) Get(ref ast.Ref) (*ast.Term, bool) {
	k := c.frame().find(ref, ref.Hash())
	if k == nil {
		return nil, false
	}
	return k.value, k.value == nil
}

// Put keeps what a name stands for, nil: it is undefined. The caller may change ref afterwards.
func (c *ruleCache) Put(ref ast.Ref, value *ast.Term) {
	f, hash := c.frame(), ref.Hash()
	if k := f.find(ref, hash); k != nil {
		k.value = value
		return
	}
	f.known = append(f.known, knownRule{hash: hash, older: -1, ref: slices.Clone(ref), value: value})
	switch {
	case f.index != nil:
		f.enter(len(f.known) - 1)
	case len(f.known) > shortList:
		f.index = map[int]int{}
		for i := range f.known {
			f.enter(i)
		}
	}
}

// enter puts the name at a place into the index.
func (f *ruleFrame) enter(i int) {
	k := &f.known[i]
	if before, taken := f.index[k.hash]; taken {
		k.older = before
	}
	f.index[k.hash] = i
}

func (f *ruleFrame) find(ref ast.Ref, hash int) *knownRule {
	if f.index == nil {
		for i := range f.known {
			if k := &f.known[i]; k.hash == hash && k.ref.Equal(ref) {
				return k
			}
		}
		return nil
	}
	i, known := f.index[hash]
	for ; known && i >= 0; i = f.known[i].older {
		if k := &f.known[i]; k.ref.Equal(ref) {
			return k
		}
	}
	return nil
}

// Keys are the names with a value.
func (c *ruleCache) Keys() (out []ast.Ref) {
	for _, k := range c.frame().known {
		if k.value != nil {
			out = append(out, k.ref)
		}
	}
	return out
}
