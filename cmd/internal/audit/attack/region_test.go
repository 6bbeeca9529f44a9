package attack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/beside"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
)

// size is enough nodes for four witnesses and three custodians of each, with some to spare.
const size = 6

var errAway = errors.New("out of reach")

// refusal is what a witness told of a head that it did not cosign.
type refusal struct {
	why      witness.Reason
	conflict *witness.Conflict
}

// node is one of the region, with what package app gives it.
type node struct {
	r           *region
	id          spiffeid.ID
	disk        string
	key         *ecdsa.PrivateKey
	endorsement []byte
	store       *store.Store
	seed        [32]byte
	cosigner    *witness.Key
	book        *witnessing.Book
	gatherer    *witnessing.Gatherer
	stop        func()

	mu      sync.Mutex   // guards the rest, which others ask of
	trail   *trail.Trail // nil while it is down
	witness *witness.Keeper
	custody *custody.Keeper
	away    bool
	serves  func(question, answer []byte) []byte // a custodian that lies; nil: an honest one
	refused map[string][]refusal                 // by the origin of the trail
	found   map[spiffeid.ID]error                // by its copies
}

// region is the nodes of one region, all honest but the one under attack.
type region struct {
	t         *testing.T
	authority *ecdsa.PrivateKey
	nodes     []*node
}

// endorse is the authority's word whose a trail key is.
func (r *region) endorse(id spiffeid.ID, key *ecdsa.PublicKey) []byte {
	r.t.Helper()
	pkix, err := x509.MarshalPKIXPublicKey(key)
	must(r.t, err)
	hash := statement.Digest(pkix)
	b, err := endorse.Sign(r.authority, endorse.Endorsement{
		ID: id, AK: &signingKey(r.t).PublicKey, TrailKey: hash[:], Expires: time.Now().Add(24 * time.Hour).Truncate(time.Second),
	})
	must(r.t, err)
	return b
}

func (r *region) authorityKey(spiffeid.TrustDomain) (*ecdsa.PublicKey, error) {
	return &r.authority.PublicKey, nil
}

func (r *region) vouched(v witnessing.Vouched) error { return v.Endorsed(&r.authority.PublicKey) }

// simulated runs an attack against a region in virtual time.
func simulated(t *testing.T, attack func(t *testing.T, r *region)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &region{t: t, authority: signingKey(t)}
		defer func() {
			for _, n := range r.nodes {
				n.down()
			}
		}()
		for i := range size {
			n := &node{
				r: r, id: spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/zone/z%d/node/n%d", i%3, i)),
				disk: filepath.Join(t.TempDir(), "disk"), refused: map[string][]refusal{}, found: map[spiffeid.ID]error{},
			}
			n.key, n.seed = signingKey(t), sha256.Sum256([]byte(n.id.String()))
			n.endorsement = r.endorse(n.id, &n.key.PublicKey)
			n.book = witnessing.NewBook(func(spiffeid.ID) bool { return true }, r.vouched)
			cosigner, err := witness.NewKey(n.id, n.seed)
			must(t, err)
			n.cosigner = cosigner
			r.nodes = append(r.nodes, n)
			n.up()
		}
		for _, n := range r.nodes {
			n.show()
		}
		for _, n := range r.nodes {
			n.await(2)
		}
		attack(t, r)
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func signingKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func (n *node) dir() string { return filepath.Join(n.disk, "trail") }

func (n *node) files() string { return filepath.Join(n.disk, "decisions") }

func (n *node) epoch() string { return trail.EpochDir(n.dir(), 1) }

func (n *node) origin() string {
	origin, err := trail.Origin(n.id, 1)
	must(n.r.t, err)
	return origin
}

func (n *node) vkey() string {
	vkey, err := trail.VerifierKey(n.origin(), &n.key.PublicKey)
	must(n.r.t, err)
	return vkey
}

// up starts the node on its disk.
func (n *node) up() {
	t := n.r.t
	t.Helper()
	must(t, os.MkdirAll(n.files(), 0o755))
	var err error
	n.store, err = store.Open(filepath.Join(n.disk, "state.db"))
	must(t, err)
	n.gatherer = witnessing.NewGatherer(witnessing.Config{
		Self: n.id, Dir: n.dir(), Book: n.book, Log: slog.New(slog.DiscardHandler),
		Trail: n.running,
		Ask: func(_ context.Context, peer spiffeid.ID, request []byte) ([]byte, error) {
			w, _, _, err := n.reach(peer)
			if err != nil {
				return nil, err
			}
			return w.Add(n.id, request).Encode(), nil
		},
	})
	opened, err := trail.Open(trail.Config{
		Dir: n.dir(), Node: n.id, Epoch: 1, Key: n.key, Protection: "tpm", Endorsement: n.endorsement, Store: n.store, Roster: n.gatherer.Roster, OnHead: n.gatherer.Wake,
	})
	if err != nil {
		must(t, errors.Join(err, n.store.Close()))
	}
	keeper := custody.New(custody.Config{
		Self: n.id, Dir: filepath.Join(n.disk, custody.DirName), Trail: n.dir(), Files: n.files(),
		Members: n.r.members, File: fileOf, Ask: n.askCustody, Beside: beside.Checks(), Every: time.Minute, LostAfter: 5 * time.Minute, Rate: 1 << 40,
		Vouched: func(owner spiffeid.ID, g trail.Genesis) error {
			return n.r.vouched(witnessing.Vouched{Record: witnessing.Record{Trail: g.Verifier, Endorsement: g.Endorsement}, Owner: owner})
		},
		Found: func(owner spiffeid.ID, _ uint64, err error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.found[owner] = err
		},
	})
	n.mu.Lock()
	n.trail, n.custody, n.witness = opened, keeper, n.asWitness(n.store, n.id, n.cosigner, time.Now)
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { _ = n.gatherer.Run(ctx); done <- struct{}{} }()
	go func() { _ = keeper.Run(ctx); done <- struct{}{} }()
	n.stop = func() { cancel(); <-done; <-done }
}

// asWitness is the node's witness over a memory, as if it were self.
func (n *node) asWitness(memory *store.Store, self spiffeid.ID, key *witness.Key, now func() time.Time) *witness.Keeper {
	return witness.New(witness.Config{
		Self: self, Key: key, Store: memory, Now: now, Log: n.book.Log,
		Roster: func(h [32]byte) (witness.Roster, bool) { return n.book.ByHash(h, time.Now()) },
		Refused: func(log witness.Log, why witness.Reason, _ string, c *witness.Conflict) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.refused[log.Owner.String()] = append(n.refused[log.Owner.String()], refusal{why, c})
		},
	})
}

func (n *node) askCustody(_ context.Context, peer spiffeid.ID, question []byte, _ int) ([]byte, error) {
	_, keeper, serves, err := n.reach(peer)
	if err != nil {
		return nil, err
	}
	b, err := keeper.Answer(n.id, question)
	if err == nil && serves != nil {
		b = serves(question, b)
	}
	return b, err
}

// reach returns what a peer answers with, if both are there.
func (n *node) reach(peer spiffeid.ID) (*witness.Keeper, *custody.Keeper, func(question, answer []byte) []byte, error) {
	p := n.r.of(peer)
	if n.gone() || p.gone() || p.running() == nil {
		return nil, nil, nil, errAway
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.witness, p.custody, p.serves, nil
}

func (n *node) running() *trail.Trail {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trail
}

func (n *node) gone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.away
}

// leave takes the node out of all others' reach, or back.
func (n *node) leave(away bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = away
}

// serve has the node's custodian answer what f makes of its answers; nil: what it holds.
func (n *node) serve(f func(question, answer []byte) []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serves = f
}

// finding is what the node's custodian found of a trail last.
func (n *node) finding(owner spiffeid.ID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.found[owner]
}

// forget forgets it.
func (n *node) forget(owner spiffeid.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.found, owner)
}

// down stops the node; a second time it does nothing.
func (n *node) down() {
	if n.running() == nil {
		return
	}
	n.stop()
	must(n.r.t, errors.Join(n.trail.Close(), n.store.Close()))
	n.mu.Lock()
	n.trail = nil
	n.mu.Unlock()
}

// show tells all nodes this one's keys.
func (n *node) show() {
	r, err := witnessing.NewRecord(n.key, n.origin(), n.cosigner.Verifier(), n.endorsement, time.Now())
	must(n.r.t, err)
	n.say(r)
}

// say tells all nodes that these are the node's keys.
func (n *node) say(r witnessing.Record) {
	record, err := r.Encode()
	must(n.r.t, err)
	for _, peer := range n.r.nodes {
		peer.book.Heard(n.id, record)
		peer.gatherer.Wake()
	}
}

// record writes leaves and waits until a signed head has them.
func (n *node) record(leaves int) uint64 {
	n.r.t.Helper()
	for i := range leaves {
		n.leaf(trail.StateOut, map[string]any{"epoch": 1, "seq": i, "ops": 1, "record": make([]byte, 32)})
	}
	must(n.r.t, n.trail.Flush(context.Background()))
	return n.trail.Head().Size
}

func (n *node) leaf(kind trail.Kind, body map[string]any) {
	n.r.t.Helper()
	must(n.r.t, n.store.Update(func(tx *store.Tx) error { return trail.Append(tx, kind, body) }))
}

// file gives the node a file that a leaf names, as segments of decisions are.
func (n *node) file(name string, content []byte) {
	n.r.t.Helper()
	must(n.r.t, os.WriteFile(filepath.Join(n.files(), name), content, 0o600))
	sum := sha256.Sum256(content)
	n.leaf(trail.Segment, map[string]any{"name": name, "sum": sum[:], "bytes": len(content)})
	n.record(0)
}

func fileOf(l trail.Leaf) (f custody.File, ok bool) {
	var b struct {
		Name  string `cbor:"name"`
		Sum   []byte `cbor:"sum"`
		Bytes int64  `cbor:"bytes"`
	}
	if l.Kind != trail.Segment.Name() || statement.Unmarshal(l.Body, &b) != nil || len(b.Sum) != 32 {
		return f, false
	}
	return custody.File{Name: b.Name, Digest: [32]byte(b.Sum), Bytes: b.Bytes}, true
}

// await waits until a head of leaves or more is witnessed.
func (n *node) await(leaves uint64) {
	n.r.t.Helper()
	until := time.Now().Add(2 * time.Minute)
	for h := n.trail.Head(); h.Size < leaves || h.Unwitnessed; h = n.trail.Head() {
		if time.Now().After(until) {
			n.r.t.Fatalf("%s: %d leaves of %d, unwitnessed %t: %+v", n.id, h.Size, leaves, h.Unwitnessed, n.gatherer.State())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// copyDisk puts a copy of the disk of a node that is down aside; put puts one back.
func (n *node) copyDisk() string {
	n.r.t.Helper()
	to := filepath.Join(n.r.t.TempDir(), "copy")
	must(n.r.t, os.CopyFS(to, os.DirFS(n.disk)))
	return to
}

func (n *node) put(disk string) {
	n.r.t.Helper()
	must(n.r.t, errors.Join(os.RemoveAll(n.disk), os.CopyFS(n.disk, os.DirFS(disk))))
}

func (r *region) of(id spiffeid.ID) *node {
	return r.nodes[slices.IndexFunc(r.nodes, func(n *node) bool { return n.id == id })]
}

func (r *region) members() (out []spiffeid.ID) {
	for _, n := range r.nodes {
		out = append(out, n.id)
	}
	return out
}

// witnesses are those that a node's heads name.
func (n *node) witnesses() (out []*node) {
	for _, m := range n.book.Roster(time.Now()).Choose(n.id) {
		out = append(out, n.r.of(m.ID))
	}
	return out
}

// custodians are the first three by rank.
func (n *node) custodians() (out []*node) {
	for _, id := range custody.Rank(n.id, n.r.members())[:3] {
		out = append(out, n.r.of(id))
	}
	return out
}

// copyOf is the folder of a custodian's copy.
func (n *node) copyOf(owner *node) string {
	name := owner.id.Path()[len("/zone/"):]
	return filepath.Join(n.disk, custody.DirName, name[:2]+"+"+filepath.Base(name))
}

// refusals are what the witnesses of a trail told of it.
func (r *region) refusals(owner *node) (out []refusal) {
	for _, n := range r.nodes {
		n.mu.Lock()
		out = append(out, n.refused[owner.id.String()]...)
		n.mu.Unlock()
	}
	return out
}

// convicted demands that so many witnesses hold a proof against a trail, and that it is
// one to anybody who knows the trail's key.
func (r *region) convicted(owner *node, atLeast int) {
	r.t.Helper()
	proofs := 0
	for _, f := range r.refusals(owner) {
		if f.conflict == nil {
			continue
		}
		b, err := witness.Accusation{Conflict: *f.conflict}.Encode()
		must(r.t, err)
		a, err := witness.ParseAccusation(b)
		must(r.t, err)
		if c, err := a.Verify(); err != nil || c.Origin != owner.origin() || a.Key != owner.vkey() {
			r.t.Errorf("a proof against %s: %+v, %v", owner.id, c, err)
		}
		proofs++
	}
	if proofs < atLeast {
		r.t.Errorf("%d witnesses hold a proof against %s, not %d: %+v", proofs, owner.id, atLeast, r.refusals(owner))
	}
}

// unharmed demands that all but one node record as before, are witnessed, and are accused
// by nobody.
func (r *region) unharmed(but *node) {
	r.t.Helper()
	for _, n := range r.nodes {
		if n == but || n.gone() {
			continue
		}
		n.await(n.record(1))
		if f := r.refusals(n); len(f) > 0 {
			r.t.Errorf("honest %s was refused: %+v", n.id, f)
		}
		for _, peer := range r.nodes {
			if err := peer.finding(n.id); err != nil && peer != but {
				r.t.Errorf("%s finds that honest %s diverges: %v", peer.id, n.id, err)
			}
		}
		if rep, err := trail.Verify(context.Background(), n.epoch(), trail.Options{VerifierKey: n.vkey(), Node: n.id}); err != nil || !rep.Good() {
			r.t.Errorf("the trail of honest %s: %s, %s, %v", n.id, rep.Integrity, rep.Completeness, err)
		}
	}
}
