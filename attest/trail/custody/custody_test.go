package custody

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// node is one of a region, with its state folder.
type node struct {
	*Keeper
	dir   string
	st    *store.Store
	tr    *trail.Trail
	n     uint64
	away  bool
	found []error
}

type region struct {
	t     *testing.T
	doubt []string // keys that nobody vouches for
	nodes map[spiffeid.ID]*node
	asked int
}

func newRegion(t *testing.T, ids ...spiffeid.ID) *region {
	r := &region{t: t, nodes: map[spiffeid.ID]*node{}}
	for _, id := range ids {
		n := &node{dir: t.TempDir()}
		r.nodes[id] = n
		n.begin(t, id, 1)
		n.Keeper = New(r.config(id, n))
		r.record(id, 300)
	}
	return r
}

func (r *region) config(id spiffeid.ID, n *node) Config {
	return Config{
		Self: id, Dir: filepath.Join(n.dir, "custody"), Trail: filepath.Join(n.dir, "trail"), Files: filepath.Join(n.dir, "decisions"),
		Members: r.members, File: fileOf, LostAfter: 10 * time.Minute, Rate: 1 << 40,
		Vouched: func(_ spiffeid.ID, g trail.Genesis) error { return r.vouched(g) },
		Found:   func(_ spiffeid.ID, _ uint64, err error) { n.found = append(n.found, err) },
		Ask: func(_ context.Context, peer spiffeid.ID, question []byte, limit int) ([]byte, error) {
			r.asked++
			p := r.nodes[peer]
			if p == nil || p.away || n.away {
				return nil, errors.New("out of reach")
			}
			b, err := p.Answer(id, question)
			if len(b) > limit {
				r.t.Errorf("an answer of %d bytes", len(b))
			}
			return b, err
		},
	}
}

func (r *region) vouched(g trail.Genesis) error {
	if slices.Contains(r.doubt, g.Verifier) {
		return errors.New("nobody does")
	}
	return nil
}

func (n *node) begin(t *testing.T, id spiffeid.ID, epoch uint64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n.end()
	if n.st, err = store.Open(filepath.Join(n.dir, "store")); err != nil {
		t.Fatal(err)
	}
	if n.tr, err = trail.Open(trail.Config{Dir: filepath.Join(n.dir, "trail"), Node: id, Epoch: epoch, Key: key, Store: n.st, Every: 1000 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.end)
}

func (n *node) end() {
	if n.tr != nil {
		_ = errors.Join(n.tr.Close(), n.st.Close())
	}
	n.tr = nil
}

func (r *region) members() (out []spiffeid.ID) {
	for id := range r.nodes {
		out = append(out, id)
	}
	return out
}

// record writes leaves, and a file that one of them names.
func (r *region) record(id spiffeid.ID, leaves int) {
	r.t.Helper()
	n := r.nodes[id]
	n.n++
	content := make([]byte, 300<<10)
	_, _ = rand.Read(content)
	sum := sha256.Sum256(content)
	if err := os.MkdirAll(n.cfg.Files, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.cfg.Files, fmt.Sprintf("%012d.gz", n.n)), content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := n.st.Update(func(tx *store.Tx) error {
		for i := range leaves {
			if err := trail.Append(tx, trail.StateOut, map[string]int{"n": i}); err != nil {
				return err
			}
		}
		return trail.Append(tx, trail.Segment, map[string]any{"n": n.n, "sum": sum[:], "bytes": len(content)})
	}); err != nil {
		r.t.Fatal(err)
	}
	if err := n.tr.Flush(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

func fileOf(l trail.Leaf) (f File, ok bool) {
	var b struct {
		N     uint64 `cbor:"n"`
		Sum   []byte `cbor:"sum"`
		Bytes int64  `cbor:"bytes"`
	}
	if l.Kind != "segment" || statement.Unmarshal(l.Body, &b) != nil || len(b.Sum) != 32 {
		return f, false
	}
	return File{fmt.Sprintf("%012d.gz", b.N), [32]byte(b.Sum), b.Bytes}, true
}

func (r *region) round() {
	for _, id := range slices.SortedFunc(slices.Values(r.members()), cmpID) {
		if n := r.nodes[id]; !n.away {
			n.Keeper.round(context.Background())
		}
	}
}

// holders are those with a copy that verifies and has all that its owner's head had.
func (r *region) holders(owner spiffeid.ID, size uint64) (out []spiffeid.ID) {
	r.t.Helper()
	for _, id := range slices.SortedFunc(slices.Values(r.members()), cmpID) {
		n := r.nodes[id]
		dir := n.place(owner)
		if id == owner {
			continue
		}
		epochs, err := trail.Epochs(dir.trail)
		if err != nil || len(epochs) == 0 {
			continue
		}
		files := 0
		rep, err := trail.Verify(context.Background(), trail.EpochDir(dir.trail, epochs[len(epochs)-1]), trail.Options{Node: owner, Leaf: func(l trail.Indexed) {
			f, ok := fileOf(l.Leaf)
			if !ok {
				return
			}
			files++
			if b, err := os.ReadFile(filepath.Join(dir.files, f.Name)); err != nil || sha256.Sum256(b) != f.Digest {
				r.t.Errorf("%s has %s of %s wrong: %v", id, f.Name, owner, err)
			}
		}})
		if err != nil || !rep.Good() || files == 0 {
			r.t.Errorf("%s holds a copy of %s that does not verify: %v, %v, %v", id, owner, rep.Integrity, rep.Completeness, err)
		}
		if rep.Size == size {
			out = append(out, id)
		}
	}
	return out
}

func (r *region) size(id spiffeid.ID) uint64 { return r.nodes[id].tr.Head().Size }

func id(path string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://east.dev.example/" + path)
}

func nodes(n int) (out []spiffeid.ID) {
	for i := range n {
		out = append(out, id(fmt.Sprintf("zone/z%d/node/n%d", i%3, i)))
	}
	return out
}

// Each trail is on its first three custodians, with its files; one that lost its disk makes its
// copies again, and one that left is replaced, also when the owner is gone.
func TestCustodians(t *testing.T) {
	r := newRegion(t, nodes(7)...)
	owner := nodes(7)[2]
	r.round()
	for _, o := range r.members() {
		want := Rank(o, r.members())[:3]
		slices.SortFunc(want, cmpID)
		if got := r.holders(o, r.size(o)); !slices.Equal(got, want) {
			t.Errorf("%s is held by %v, not by %v", o, got, want)
		}
	}
	r.record(owner, 500)
	r.round()
	rank := Rank(owner, r.members())
	if got := r.holders(owner, r.size(owner)); len(got) != 3 {
		t.Fatalf("what is new is held by %v", got)
	}
	before := r.asked
	r.round()
	if cost := r.asked - before; cost > 7*3*4+7*3*3 {
		t.Errorf("%d questions in a round in which nothing is new", cost)
	}

	size := r.size(owner)
	lost := r.nodes[rank[0]]
	if err := os.RemoveAll(lost.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	lost.Keeper = New(lost.cfg)
	r.nodes[owner].away = true // others have it
	r.round()
	if got := r.holders(owner, size); len(got) != 3 {
		t.Errorf("after a disk was lost it is held by %v", got)
	}
	if err := os.RemoveAll(lost.place(owner).trail); err != nil { // while it runs
		t.Fatal(err)
	}
	r.round()
	if got := r.holders(owner, size); len(got) != 3 {
		t.Errorf("after a copy was removed it is held by %v", got)
	}
	delete(r.nodes, rank[1])
	r.round()
	want := Rank(owner, r.members())[:3]
	slices.SortFunc(want, cmpID)
	if got := r.holders(owner, size); !slices.Equal(got, want) {
		t.Errorf("after one left it is held by %v, want %v", got, want)
	}
}

// Where a custodian is silent for long another stands in, until it is back and has all of it.
func TestStandIn(t *testing.T) {
	dirs := t
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(dirs, nodes(6)...)
		defer func() {
			for _, n := range r.nodes {
				n.end()
			}
		}()
		owner := nodes(6)[0]
		rank := Rank(owner, r.members())
		r.nodes[rank[1]].away = true
		r.round()
		if got := r.holders(owner, r.size(owner)); len(got) != 2 {
			t.Fatalf("held by %v at once", got)
		}
		time.Sleep(10 * time.Minute)
		r.round()
		if got := r.holders(owner, r.size(owner)); len(got) != 4 { // the two that are left, and two of the others
			t.Fatalf("held by %v after ten minutes", got)
		}
		r.nodes[rank[1]].away = false
		r.record(owner, 10)
		r.round() // it makes its copy
		r.round() // the others see it
		want := slices.SortedFunc(slices.Values(rank[:3]), cmpID)
		if got := r.holders(owner, r.size(owner)); !slices.Equal(got, want) {
			t.Errorf("held by %v, want %v", got, want)
		}
	})
}

// What an owner shows that does not continue the copy leaves the copy as it is, and is told once.
func TestOwnerThatRewrites(t *testing.T) {
	for name, rewrite := range map[string]func(*region, spiffeid.ID){
		"another key and history": func(r *region, owner spiffeid.ID) {
			n := r.nodes[owner]
			n.end()
			_ = os.RemoveAll(n.cfg.Trail)
			_ = os.Remove(filepath.Join(n.dir, "store"))
			n.begin(r.t, owner, 1)
			r.record(owner, 2000)
		},
		"an older disk": func(r *region, owner spiffeid.ID) {
			n := r.nodes[owner]
			n.end()
			_ = os.RemoveAll(n.cfg.Trail)
			_ = os.Remove(filepath.Join(n.dir, "store"))
			n.begin(r.t, owner, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegion(t, nodes(4)...)
			owner := nodes(4)[1]
			r.round()
			held := r.size(owner)
			rewrite(r, owner)
			r.round()
			r.round()
			if got := r.holders(owner, held); len(got) != 3 {
				t.Errorf("what was held is held by %v", got)
			}
			for _, c := range Rank(owner, r.members()) {
				n := r.nodes[c]
				if len(n.found) != 1 || !errors.Is(n.found[0], trail.ErrRollback) && !errors.Is(n.found[0], trail.ErrCheckpoint) && !errors.Is(n.found[0], trail.ErrRoot) {
					t.Errorf("%s found %v", c, n.found)
				}
				if b, err := os.ReadFile(filepath.Join(trail.EpochDir(n.place(owner).trail, 1), ConflictPath)); err != nil || string(b) != string(r.nodes[owner].tr.Head().Raw) {
					t.Errorf("the other head is not kept: %v", err)
				}
				if i := slices.IndexFunc(n.Status(), func(h Held) bool { return h.Owner == owner }); !n.Status()[i].Trouble {
					t.Errorf("%s shows no trouble", c)
				}
			}
		})
	}
}

// A custodian that lies spoils nothing, and gets nobody else blamed.
func TestLyingCustodian(t *testing.T) {
	r := newRegion(t, nodes(5)...)
	owner := nodes(5)[1]
	r.round()
	rank := Rank(owner, r.members())
	liar, victim := r.nodes[rank[0]], r.nodes[rank[1]]
	if err := os.RemoveAll(victim.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	victim.Keeper = New(victim.cfg)
	bundle := filepath.Join(trail.EpochDir(liar.place(owner).trail, 1), "tile/entries/000")
	b, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(bundle, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := victim.open(owner, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, lies, err := trail.ReadRaw(trail.EpochDir(liar.place(owner).trail, 1), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(lies[:280]); err != nil { // the connection broke here
		t.Fatal(err)
	}
	victim.round(t.Context())
	if len(victim.found) != 0 {
		t.Errorf("the owner is blamed: %v", victim.found)
	}
	r.nodes[owner].away = true
	if err := os.RemoveAll(victim.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	victim.Keeper = New(victim.cfg)
	victim.round(t.Context()) // the liar first, then one that is honest
	b[len(b)-1] ^= 1
	_ = os.WriteFile(bundle, b, 0o600)
	if got := r.holders(owner, r.size(owner)); len(got) != 3 {
		t.Errorf("held by %v", got)
	}
}

// No copy is made of a trail for whose key nobody stands. The key of an epoch that is over is vouched
// for by the next one's genesis.
func TestKeysVouchedFor(t *testing.T) {
	r := newRegion(t, nodes(4)...)
	owner := nodes(4)[1]
	first := r.nodes[owner].tr.VerifierKey()
	r.doubt = []string{first}
	r.round()
	if got := r.holders(owner, r.size(owner)); len(got) != 0 {
		t.Fatalf("held by %v", got)
	}
	r.nodes[owner].begin(t, owner, 2)
	r.record(owner, 10)
	r.round()
	r.round()
	if got := r.holders(owner, r.size(owner)); len(got) != 3 {
		t.Errorf("the newest is held by %v", got)
	}
	for _, id := range Rank(owner, r.members())[:3] {
		rep, err := trail.Verify(t.Context(), trail.EpochDir(r.nodes[id].place(owner).trail, 1), trail.Options{VerifierKey: first})
		if err != nil || !rep.Good() || rep.Size == 0 {
			t.Errorf("%s: the one before: %s, %s, %v", id, rep.Integrity, rep.Completeness, err)
		}
	}
}

// A copy that rotted is made again at the next start.
func TestDamagedCopyIsMadeAgain(t *testing.T) {
	r := newRegion(t, nodes(4)...)
	owner := nodes(4)[1]
	r.round()
	n := r.nodes[Rank(owner, r.members())[0]]
	tile := filepath.Join(trail.EpochDir(n.place(owner).trail, 1), "tile/0/000")
	if err := os.WriteFile(tile, make([]byte, 256*32), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Keeper = New(n.cfg)
	n.round(t.Context())
	if got := r.holders(owner, r.size(owner)); len(got) != 3 {
		t.Errorf("held by %v", got)
	}
}

func TestBounds(t *testing.T) {
	r := newRegion(t, nodes(4)...)
	owner := nodes(4)[1]
	n := r.nodes[Rank(owner, r.members())[0]]
	n.cfg.MaxBytes = 600 << 10
	n.Keeper = New(n.cfg)
	n.round(t.Context())
	if used := size(n.cfg.Dir); used > 600<<10 || used == 0 {
		t.Errorf("%d bytes are used", used)
	}
}

func TestWhoMayAsk(t *testing.T) {
	r := newRegion(t, nodes(9)...)
	owner := nodes(9)[1]
	rank := Rank(owner, r.members())
	q := func(o spiffeid.ID) []byte {
		b, err := statement.Marshal(question{Owner: o.String()})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	own := r.nodes[owner]
	for _, tt := range []struct {
		peer, of spiffeid.ID
		want     error
	}{
		{rank[0], owner, nil}, {rank[5], owner, nil}, {rank[6], owner, ErrNotCustodian}, {owner, owner, nil},
		{spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), owner, ErrNotCustodian},
		{owner, spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), ErrNotCustodian},
		{owner, id("workload/web"), ErrQuestion},
	} {
		if _, err := own.Answer(tt.peer, q(tt.of)); !errors.Is(err, tt.want) {
			t.Errorf("%s of %s: %v, want %v", tt.peer, tt.of, err, tt.want)
		}
	}
	heads, err := statement.Marshal(question{Owner: owner.String(), From: headOnly})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := own.Answer(rank[6], heads); err != nil || len(b) == 0 {
		t.Errorf("a head, to any of the region: %v", err)
	}
	if _, err := own.Answer(spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), heads); !errors.Is(err, ErrNotCustodian) {
		t.Errorf("a head, to another region: %v", err)
	}
	r.nodes[rank[6]].away = true
	if got := own.Heads(t.Context()); len(got) != 7 {
		t.Errorf("%d heads of the seven others in reach", len(got))
	}
	for _, file := range []string{"../store", "/etc/passwd", ".part", "a/b", "A"} {
		b, err := statement.Marshal(question{Owner: owner.String(), File: file})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.Answer(rank[0], b); !errors.Is(err, ErrQuestion) {
			t.Errorf("%q: %v", file, err)
		}
	}
}

// Custodians are in as many failure domains as there are, the owner's last, and a member that
// goes moves nobody but for one to take its place.
func TestRank(t *testing.T) {
	var members []spiffeid.ID
	for z := range 4 {
		for n := range 5 {
			members = append(members, id(fmt.Sprintf("zone/z%d/node/n%d", z, n)))
		}
	}
	members = append(members, spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"))
	for _, o := range members[:20] {
		rank := Rank(o, members)
		if len(rank) != 19 {
			t.Fatalf("%d ranked", len(rank))
		}
		zones := map[string]bool{domain(o): true}
		for _, m := range rank[:3] {
			if zones[domain(m)] {
				t.Errorf("%s: %v are not three other zones", o, rank[:3])
			}
			zones[domain(m)] = true
		}
		for gone := range rank {
			left := Rank(o, slices.DeleteFunc(slices.Clone(members), func(m spiffeid.ID) bool { return m == rank[gone] }))
			kept := 0
			for _, m := range left[:3] {
				if slices.Contains(rank[:3], m) {
					kept++
				}
			}
			if gone >= 3 && kept != 3 || kept < 2 {
				t.Errorf("%s: without %d, %v becomes %v", o, gone, rank[:3], left[:3])
			}
		}
	}
	flat := []spiffeid.ID{id("node/a"), id("node/b"), id("node/c")}
	if got := Rank(flat[0], append(flat, flat...)); len(got) != 2 {
		t.Errorf("without zones: %v", got)
	}
}

func TestFolder(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("east.dev.example")
	for _, want := range []spiffeid.ID{id("node/n1"), id("zone/z1/node/n1")} {
		if got, ok := owner(td, folder(want)); !ok || got != want {
			t.Errorf("%s is kept in %q, which is of %s", want, folder(want), got)
		}
	}
	for _, name := range []string{"a+b+c", "..", "a b", ""} {
		if got, ok := owner(td, name); ok {
			t.Errorf("%q is of %s", name, got)
		}
	}
}

func FuzzParseQuestion(f *testing.F) {
	for _, q := range []question{{Owner: "spiffe://east.dev.example/node/n1", Epoch: 3, From: 7}, {Owner: "spiffe://east.dev.example/zone/z/node/n1", File: "1.gz", Offset: 9},
		{Owner: "spiffe://east.dev.example/node/n1", Folder: "rosters", File: "ab", Offset: 9}, {Owner: "spiffe://east.dev.example/node/n1", Epoch: 1, From: 9, Seen: true}} {
		b, err := statement.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err != nil {
			if !errors.Is(err, ErrQuestion) {
				t.Fatal(err)
			}
			return
		}
		if again, err := statement.Marshal(q); err != nil || string(again) != string(b) {
			t.Errorf("%x is spelled %x, %v", b, again, err)
		}
		if q.File != "" && filepath.Base(q.File) != q.File || q.Folder != "" && filepath.Base(q.Folder) != q.Folder || folder(q.owner) == "" || filepath.Base(folder(q.owner)) != folder(q.owner) {
			t.Errorf("%+v leaves its folder", q)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	b, err := statement.Marshal(answer{Epochs: []uint64{1, 2}, Head: []byte("h"), Leaves: [][]byte{{1}, {2}}, Heads: [][]byte{{3}}, Names: []string{"a"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseAnswer(b); err != nil && !errors.Is(err, ErrAnswer) {
			t.Fatal(err)
		}
	})
}
