package trail

import (
	"errors"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// The authority's trail remembers what heads a node showed: a tail that is cut off later is missed.
func TestRegionLog(t *testing.T) {
	t.Parallel()
	node := newBench(t)
	tr := node.open()
	authority := newBench(t)
	log := authority.open()
	var last []byte
	for i := range 100 {
		node.put(i, 1)
		node.flush(tr)
		last = tr.Head().Raw
		if err := authority.s.Update(func(tx *store.Tx) error { return AppendHeads(tx, [][]byte{last, make([]byte, 5000)}) }); err != nil {
			t.Fatal(err)
		}
	}
	many := make([][]byte, 200)
	for i := range many {
		many[i] = last
	}
	if err := authority.s.Update(func(tx *store.Tx) error { return AppendHeads(tx, many) }); err != nil {
		t.Fatal(err)
	}
	authority.flush(log)
	if r := authority.wantGood(authority.verify().Size); r.Kinds["region.heads"] < 102 {
		t.Errorf("kinds %v", r.Kinds)
	}
	heads, err := NewestHeads(t.Context(), authority.folder())
	if err != nil || len(heads) != 1 {
		t.Fatal(len(heads), err)
	}
	known, err := OpenCheckpoint(heads["east.dev.example/trail/east-n1/1"], tr.VerifierKey())
	if err != nil || known.Size != 102 {
		t.Fatalf("the newest is of %d leaves, %v", known.Size, err)
	}
	if r, err := Verify(t.Context(), node.folder(), Options{Node: testNode, Known: &known}); err != nil || !r.Good() {
		t.Errorf("%v %v %v", r.Integrity, r.Completeness, err)
	}
	cut := newBench(t)
	ct := cut.open()
	cut.put(0, 50)
	cut.flush(ct)
	if r, err := Verify(t.Context(), cut.folder(), Options{Node: testNode, Known: &known}); err != nil || r.Good() || !errors.Is(r.Completeness.Err, ErrRollback) {
		t.Errorf("a trail that was cut: %v %v", r.Completeness, err)
	}
}
