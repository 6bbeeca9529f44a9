package sim

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// disk is a node's store in memory: it outlives the node. Values are kept as they are
// given, so that one record's bytes serve all nodes.
type disk struct {
	buckets map[string]*bucket
	leaves  uint64
}

func newDisk() *disk { return &disk{buckets: map[string]*bucket{}} }

func (d *disk) View(fn func(replica.Tx) error) error   { return fn(d) }
func (d *disk) Update(fn func(replica.Tx) error) error { return fn(d) }

func (d *disk) Get(name string, key []byte) []byte {
	if b := d.buckets[name]; b != nil {
		if v, ok := b.get(string(key)); ok {
			return v
		}
	}
	return nil
}

func (d *disk) Put(name string, key, value []byte) error {
	b := d.buckets[name]
	if b == nil {
		b = &bucket{}
		d.buckets[name] = b
	}
	b.put(string(key), value)
	return nil
}

func (d *disk) Delete(name string, key []byte) error {
	if b := d.buckets[name]; b != nil {
		b.remove(string(key))
	}
	return nil
}

func (d *disk) Range(name string, from []byte, fn func(k, v []byte) bool) {
	if b := d.buckets[name]; b != nil {
		b.each(string(from), fn)
	}
}

// Leaf counts: nobody reads the trail of a simulated node.
func (d *disk) Leaf(string, []byte) error {
	d.leaves++
	return nil
}

// size returns the bytes of a feed's records after seq, by the keys of gossip/replica.
func (d *disk) size(f feed.FeedID, seq uint64) (size uint64) {
	prefix := binary.BigEndian.AppendUint64(append([]byte(f.Origin.String()), 0), f.Epoch)
	d.Range("feed/records", binary.BigEndian.AppendUint64(prefix, seq+1), func(k, v []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		size += uint64(len(v))
		return true
	})
	return size
}

const pageSize = 256

// bucket is a sorted map, in sorted pages of at most pageSize entries.
type bucket struct{ pages [][]entry }

type entry struct {
	key   string
	value []byte
}

// find returns where a key is, or would be.
func (b *bucket) find(key string) (page, at int, found bool) {
	page = max(sort.Search(len(b.pages), func(i int) bool { return b.pages[i][0].key > key })-1, 0)
	if len(b.pages) == 0 {
		return 0, 0, false
	}
	at, found = slices.BinarySearchFunc(b.pages[page], key, func(e entry, key string) int { return strings.Compare(e.key, key) })
	return page, at, found
}

func (b *bucket) get(key string) ([]byte, bool) {
	page, at, found := b.find(key)
	if !found {
		return nil, false
	}
	return b.pages[page][at].value, true
}

func (b *bucket) put(key string, value []byte) {
	page, at, found := b.find(key)
	switch {
	case found:
		b.pages[page][at].value = value
	case len(b.pages) == 0:
		b.pages = [][]entry{{{key, value}}}
	default:
		p := slices.Insert(b.pages[page], at, entry{key, value})
		if b.pages[page] = p; len(p) > pageSize {
			b.pages[page] = p[: len(p)/2 : len(p)/2]
			b.pages = slices.Insert(b.pages, page+1, slices.Clone(p[len(p)/2:]))
		}
	}
}

func (b *bucket) remove(key string) {
	page, at, found := b.find(key)
	if !found {
		return
	}
	if b.pages[page] = slices.Delete(b.pages[page], at, at+1); len(b.pages[page]) == 0 {
		b.pages = slices.Delete(b.pages, page, page+1)
	}
}

func (b *bucket) each(from string, fn func(k, v []byte) bool) {
	page, at, _ := b.find(from)
	for ; page < len(b.pages); page, at = page+1, 0 {
		for _, e := range b.pages[page][min(at, len(b.pages[page])):] {
			if !fn([]byte(e.key), e.value) {
				return
			}
		}
	}
}
