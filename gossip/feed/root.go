package feed

import (
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// The ops root is a tree over two kinds of leaves: the first holds all values, and each of the
// others the heads of eight ops. A proof about a key is a leaf of heads, so it is short whatever
// the values, and tells nothing of them.

const (
	headsPerLeaf = 8
	maxHead      = MaxKey + 96 // encoded
)

// head is what the ops root commits to for one op, apart from its value.
type head struct {
	Key    string `cbor:"1,keyasint"`
	Action Action `cbor:"2,keyasint"`
	Scope  Scope  `cbor:"4,keyasint"`

	Written *Written `cbor:"5,keyasint,omitempty"`
}

// leavesOf is the number of leaves for count ops.
func leavesOf(count int) int { return 1 + (count+headsPerLeaf-1)/headsPerLeaf }

// leafOf is the place of the leaf that holds the head of op i.
func leafOf(i int) int { return 1 + i/headsPerLeaf }

// leaves returns the leaf inputs of ops, in order.
func leaves(ops []Op) ([][]byte, error) {
	values, heads := make([][]byte, len(ops)), make([]head, len(ops))
	for i, op := range ops {
		values[i], heads[i] = op.Value, head{op.Key, op.Action, op.Scope, op.Written}
	}
	first, err := statement.Marshal(values)
	if err != nil {
		return nil, err
	}
	out := [][]byte{first}
	for group := range slices.Chunk(heads, headsPerLeaf) {
		b, err := statement.Marshal(group)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// OpsRoot returns the ops root of ops. Writers need not call it; whoever makes
// records by hand, in tests of hostile nodes, does.
func OpsRoot(ops []Op) [32]byte {
	ls, err := leaves(ops)
	if err != nil {
		panic(err) // a struct of strings, numbers and bytes always encodes
	}
	return treeRoot(ls)
}
