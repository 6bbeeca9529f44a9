package replica

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Bounds of the frames that compare frontiers.
const (
	maxNodes  = 32  // subtrees in one frame: they fit with all their children
	maxLeaves = 128 // likewise, of those told by their heads
)

// treeNode is a subtree by the hashes of its children; empty ones are left out.
type treeNode struct {
	Prefix []byte `cbor:"1,keyasint"`
	Which  uint16 `cbor:"2,keyasint"` // bit i: the i-th child has heads
	Hashes []byte `cbor:"3,keyasint"` // theirs, one after the other
}

// treeLeaves is a subtree by all its heads.
type treeLeaves struct {
	Prefix []byte      `cbor:"1,keyasint"`
	Heads  []headClaim `cbor:"2,keyasint"`
}

// branch and leaves are the two as they are used.
type branch struct {
	prefix   feed.Prefix
	children [feed.Fanout][32]byte
}

type leaves struct {
	prefix feed.Prefix
	heads  feed.Frontier
}

func encodeNode(n branch) treeNode {
	out := treeNode{Prefix: []byte(n.prefix), Hashes: []byte{}}
	for i, h := range n.children {
		if h != ([32]byte{}) {
			out.Which |= 1 << i
			out.Hashes = append(out.Hashes, h[:]...)
		}
	}
	return out
}

func nodesFrames(nodes []branch) (out [][]byte) {
	for len(nodes) > 0 {
		n := min(len(nodes), maxNodes)
		body := make([]treeNode, n)
		for i := range body {
			body[i] = encodeNode(nodes[i])
		}
		out, nodes = append(out, frame(frameNodes, encode(body))), nodes[n:]
	}
	return out
}

// leavesFrames encodes subtrees, each of which fits into a frame.
func leavesFrames(subtrees []leaves) (out [][]byte) {
	var body []treeLeaves
	size := 0
	cut := func() {
		if len(body) > 0 {
			out = append(out, frame(frameLeaves, encode(body)))
		}
		body, size = nil, 0
	}
	for _, l := range subtrees {
		told := treeLeaves{Prefix: []byte(l.prefix), Heads: []headClaim{}}
		more := 16
		for _, f := range l.heads.Feeds() {
			told.Heads = append(told.Heads, claimOf(f, l.heads[f]))
			more += claimBytes(f)
		}
		if size+more > headsSize || len(body) == maxLeaves {
			cut()
		}
		body, size = append(body, told), size+more
	}
	cut()
	return out
}

func parseNodes(b []byte) ([]branch, error) {
	var body []treeNode
	if err := statement.Unmarshal(b, &body); err != nil {
		return nil, fmt.Errorf("%w: nodes: %w", errFrame, err)
	}
	if len(body) > maxNodes {
		return nil, fmt.Errorf("%w: %d nodes, at most %d", errFrame, len(body), maxNodes)
	}
	out := make([]branch, len(body))
	last := feed.Prefix("")
	for i, n := range body {
		p, ok := feed.PrefixOf(n.Prefix)
		if !ok || len(p) == feed.MaxPrefix || i > 0 && !follows(p, last) || len(n.Hashes) != 32*bits.OnesCount16(n.Which) {
			return nil, fmt.Errorf("%w: nodes: %x after %x, with %d bytes of hashes for %b", errFrame, n.Prefix, last, len(n.Hashes), n.Which)
		}
		out[i].prefix, last = p, p
		rest := n.Hashes
		for child := range out[i].children {
			if n.Which&(1<<child) != 0 {
				out[i].children[child], rest = [32]byte(rest[:32]), rest[32:]
			}
		}
	}
	return out, nil
}

func parseLeaves(b []byte) ([]leaves, error) {
	var body []treeLeaves
	if err := statement.Unmarshal(b, &body); err != nil {
		return nil, fmt.Errorf("%w: leaves: %w", errFrame, err)
	}
	if len(body) > maxLeaves {
		return nil, fmt.Errorf("%w: leaves of %d subtrees, at most %d", errFrame, len(body), maxLeaves)
	}
	out := make([]leaves, len(body))
	last := feed.Prefix("")
	for i, l := range body {
		p, ok := feed.PrefixOf(l.Prefix)
		if !ok || i > 0 && !follows(p, last) {
			return nil, fmt.Errorf("%w: leaves: %x after %x", errFrame, l.Prefix, last)
		}
		heads, err := frontierOf(l.Heads)
		if err != nil {
			return nil, err
		}
		for f := range heads {
			if !p.Covers(f) {
				return nil, fmt.Errorf("%w: leaves: %s is not below %x", errFrame, f, l.Prefix)
			}
		}
		out[i], last = leaves{p, heads}, p
	}
	return out, nil
}

// follows reports whether a subtree comes after another and is apart from it: so no
// frame makes a node look twice at anything.
func follows(p, last feed.Prefix) bool {
	return p > last && !strings.HasPrefix(string(p), string(last))
}
