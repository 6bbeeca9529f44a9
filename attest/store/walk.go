package store

import (
	"bytes"

	bolt "go.etcd.io/bbolt"
)

// layer is one bucket of a tree or of the database, in the order of its keys. A
// nil key is its end; a nil value says that the key was deleted.
type layer interface {
	head() (k, v []byte)
	next()
}

// walk merges layers, newest first: where several hold a key, the newest is right.
type walk struct {
	layers []layer
	order  int // 1 upward, -1 downward
}

// next returns the next key that is not deleted, and a nil key at the end.
func (w *walk) next() (k, v []byte) {
	for {
		k, v = nil, nil
		for _, l := range w.layers {
			if at, value := l.head(); at != nil && (k == nil || bytes.Compare(at, k)*w.order < 0) {
				k, v = at, value
			}
		}
		if k == nil {
			return nil, nil
		}
		for _, l := range w.layers {
			if at, _ := l.head(); at != nil && bytes.Equal(at, k) {
				l.next()
			}
		}
		if v != nil {
			return k, v
		}
	}
}

// baseWalk is the database's layer.
type baseWalk struct {
	cursor *bolt.Cursor
	down   bool
	k, v   []byte
}

func (w *baseWalk) head() (k, v []byte) {
	if w.k != nil && w.v == nil {
		return w.k, []byte{} // here an empty value, not a deletion
	}
	return w.k, w.v
}

func (w *baseWalk) next() {
	if w.down {
		w.k, w.v = w.cursor.Prev()
		return
	}
	w.k, w.v = w.cursor.Next()
}
