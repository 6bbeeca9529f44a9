package feed

import "testing"

func TestFrontier(t *testing.T) {
	a := Frontier{{n1, 1}: {Seq: 3, ID: ID{3}}, {n1, 2}: {Seq: 1, ID: ID{1}}, {n2, 1}: {Seq: 9, ID: ID{9}, HLC: 4}}
	b := Frontier{{n2, 1}: {Seq: 9, ID: ID{9}, Bytes: 7}, {n1, 2}: {Seq: 1, ID: ID{1}}, {n1, 1}: {Seq: 3, ID: ID{3}}, {n2, 5}: {}}
	if a.Root() != b.Root() {
		t.Error("equal heads, different roots")
	}
	if d := a.Diff(b); len(d) != 0 {
		t.Errorf("diff of equal frontiers: %v", d)
	}
	b[FeedID{n1, 1}] = Head{Seq: 3, ID: ID{4}}
	delete(b, FeedID{n1, 2})
	if a.Root() == b.Root() {
		t.Error("different heads, equal roots")
	}
	d := a.Diff(b)
	if len(d) != 2 || d[0].Feed != (FeedID{n1, 1}) || d[1].Feed != (FeedID{n1, 2}) || d[1].Theirs.Seq != 0 || d[1].Ours.Seq != 1 {
		t.Errorf("diff %v", d)
	}
	if (Frontier(nil)).Root() != (Frontier{}).Root() || len(Frontier(nil).Diff(a)) != 3 {
		t.Error("nil frontier")
	}
}

func TestTreePaths(t *testing.T) {
	var hashes [][32]byte
	for n := range 40 {
		for i := range n {
			if root, ok := pathRoot(hashes[i], i, n, treePath(hashes, i)); !ok || root != treeHash(hashes) {
				t.Fatalf("leaf %d of %d", i, n)
			}
			if _, ok := pathRoot(hashes[i], i, n, append(treePath(hashes, i), [32]byte{})); ok {
				t.Fatalf("leaf %d of %d: path too long was taken", i, n)
			}
		}
		hashes = append(hashes, leafHash([]byte{byte(n)}))
	}
}
