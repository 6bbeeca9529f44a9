package sim

import (
	"maps"
	"slices"
	"time"
)

// What upsets honest nodes beside cuts and crashes: disks and clocks that go back, and versions
// that differ. None of it makes anybody guilty.

// clone copies a disk; values are never changed in place.
func (d *disk) clone() *disk {
	c := &disk{buckets: maps.Clone(d.buckets), leaves: d.leaves}
	for name, b := range c.buckets {
		pages := make([][]entry, len(b.pages))
		for i, p := range b.pages {
			pages[i] = slices.Clone(p)
		}
		c.buckets[name] = &bucket{pages}
	}
	return c
}

// backup copies everybody's disk.
func (f *fleet) backup() {
	f.copied = nil
	for _, n := range f.nodes {
		f.copied = append(f.copied, n.disk.clone())
	}
	f.tell(nil, "all disks are copied")
}

// some are honest nodes that are up, by chance, at least one.
func (f *fleet) some(share float64) []*node {
	var live []*node
	for _, n := range f.nodes {
		if n.up && n.honest() {
			live = append(live, n)
		}
	}
	f.rand.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	return live[:min(max(int(share*float64(f.Nodes)), 1), len(live))]
}

// restore puts the copies in the place of disks. A node's counters are in its TPM: they tell it
// that its disk is behind, and it spends its spare epoch before it writes. Without counters it
// goes on as if nothing had happened, and signs numbers twice.
func (f *fleet) restore(share float64, counters bool) {
	if f.copied == nil {
		return
	}
	for _, n := range f.some(share) {
		n.disk, n.restored = f.copied[n.index].clone(), true
		if counters {
			n.number++
		}
		f.tell(n, "is restored from a copy of its disk, and is in epoch %d", n.number)
		f.again(n)
	}
}

// older has nodes start again as another version.
func (f *fleet) older(share float64) {
	for _, n := range f.some(share) {
		n.strict = !n.strict
		f.tell(n, "starts again as another version")
		f.again(n)
	}
}

// jump sets clocks ahead or back.
func (f *fleet) jump(share float64, by time.Duration) {
	for _, n := range f.some(share) {
		n.skew += by
		f.tell(n, "has its clock set by %s", by)
	}
}

// again stops a node and starts it at once from its disk. Its old sessions are gone.
func (f *fleet) again(n *node) {
	n.stop()
	for _, e := range slices.Clone(n.ends) {
		f.hangUp(e, errLost)
	}
	if n.self != nil {
		if err := f.certify(n); err != nil {
			f.fail(err)
			return
		}
	}
	if err := n.start(); err != nil {
		f.fail(err)
	}
	f.stale = true
}
