package store

import (
	"bytes"
	"math/rand/v2"
	"strings"
)

// node is a tree of the newest change of each key, ordered by bucket and then
// key: a treap, whose random weights keep it shallow. It is never changed. A new
// tree shares all but the path to what is new, so a reader keeps its root and
// sees one moment. The nil node is the empty tree.
type node struct {
	*change     // a put or a delete
	weight      uint32
	left, right *node
}

func (n *node) compare(bucket string, key []byte) int {
	if c := strings.Compare(bucket, n.bucket); c != 0 {
		return c
	}
	return bytes.Compare(key, n.key)
}

// with returns the tree with one more change, in place of an older one of its key.
func (n *node) with(c *change) *node {
	if n == nil {
		return &node{change: c, weight: rand.Uint32()}
	}
	root := *n
	switch order := n.compare(c.bucket, c.key); {
	case order == 0:
		root.change = c
	case order < 0:
		l := n.left.with(c) // a new node, so it may be turned
		if l.weight > n.weight {
			root.left, l.right = l.right, &root
			return l
		}
		root.left = l
	default:
		r := n.right.with(c)
		if r.weight > n.weight {
			root.right, r.left = r.left, &root
			return r
		}
		root.right = r
	}
	return &root
}

// find returns the newest change of a key, or nil.
func (n *node) find(bucket string, key []byte) *change {
	for n != nil {
		switch order := n.compare(bucket, key); {
		case order == 0:
			return n.change
		case order < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil
}

// each calls fn for every change, in order, until it fails.
func (n *node) each(fn func(*change) error) error {
	if n == nil {
		return nil
	}
	if err := n.left.each(fn); err != nil {
		return err
	}
	if err := fn(n.change); err != nil {
		return err
	}
	return n.right.each(fn)
}

// treeWalk goes through one bucket of a tree, upward or downward.
type treeWalk struct {
	bucket string
	down   bool
	path   []*node // the nodes still to come whose farther side was not entered, nearest last
}

// up starts at the first key that is not below from.
func (n *node) up(bucket string, from []byte) *treeWalk {
	w := &treeWalk{bucket: bucket}
	for n != nil {
		if n.compare(bucket, from) <= 0 {
			w.path = append(w.path, n)
			n = n.left
		} else {
			n = n.right
		}
	}
	return w
}

// last starts at the greatest key and goes down.
func (n *node) last(bucket string) *treeWalk {
	w := &treeWalk{bucket: bucket, down: true}
	for n != nil {
		if n.bucket <= bucket {
			w.path = append(w.path, n)
			n = n.right
		} else {
			n = n.left
		}
	}
	return w
}

// head is the key and value at which the walk stands; the value of a deleted key
// is nil, and the key at the end.
func (w *treeWalk) head() (k, v []byte) {
	if len(w.path) == 0 {
		return nil, nil
	}
	n := w.path[len(w.path)-1]
	if n.bucket != w.bucket {
		return nil, nil
	}
	return n.key, n.value
}

func (w *treeWalk) next() {
	n := w.path[len(w.path)-1]
	w.path = w.path[:len(w.path)-1]
	if w.down {
		for n = n.left; n != nil; n = n.right {
			w.path = append(w.path, n)
		}
		return
	}
	for n = n.right; n != nil; n = n.left {
		w.path = append(w.path, n)
	}
}
