package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// What rules gave is remembered as OPA's own cache does it: also where one name begins another,
// where a name is kept twice, and after it has been used before.
func FuzzRuleCache(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint8(3))
		f.Add(seed, uint8(60)) // long lists
	}
	c := newRuleCache()
	f.Fuzz(func(t *testing.T, seed uint64, names uint8) {
		r := rand.New(rand.NewPCG(seed, 1))
		c.forget()
		want, depth := topdown.NewVirtualCache(), 0
		ref := ast.Ref{ast.DefaultRootDocument}
		for range 400 {
			ref = ref[:1]
			for range r.IntN(3) {
				ref = append(ref, ast.StringTerm(fmt.Sprint(r.IntN(int(names)+1))))
			}
			switch r.IntN(12) {
			case 0:
				c.Push()
				want.Push()
				depth++
			case 1:
				if depth > 0 {
					c.Pop()
					want.Pop()
					depth--
				}
			case 2, 3, 4, 5, 6:
				if _, undefined := want.Get(ref); undefined {
					continue // what was undefined stays so
				}
				value := ast.IntNumberTerm(r.IntN(9))
				if had, _ := want.Get(ref); had == nil && r.IntN(4) == 0 {
					value = nil
				}
				c.Put(ref, value)
				want.Put(ref, value)
			}
			a, none := c.Get(ref)
			if b, undefined := want.Get(ref); a != b || none != undefined {
				t.Fatalf("%v is %v %t, want %v %t", ref, a, none, b, undefined)
			}
			if len(ref) > 1 {
				ref[1] = ast.StringTerm("another") // a name is no longer the cache's caller's to change
			}
		}
		got, keys := c.Keys(), want.Keys()
		order := func(a, b ast.Ref) int { return a.Compare(b) }
		slices.SortFunc(got, order)
		slices.SortFunc(keys, order)
		if !slices.EqualFunc(got, keys, func(a, b ast.Ref) bool { return a.Equal(b) }) {
			t.Errorf("keys %v, want %v", got, keys)
		}
	})
}
