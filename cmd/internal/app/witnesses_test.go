package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/turns"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// witnessed is a node of a fleet with a trail, that witnesses those of others.
type witnessed struct {
	*fleetNode
	t        *testing.T
	disk     string // store and trail of the node; a witness's memory is elsewhere
	key      *ecdsa.PrivateKey
	store    *store.Store
	trail    atomic.Pointer[trail.Trail]
	gatherer *witnessing.Gatherer
	book     *witnessing.Book
	refused  chan witness.Accusation
}

// witnessing gives a node what openWitness gives one of the product.
func (f *fleet) witnessing(n *fleetNode) *witnessed {
	t := f.t
	t.Helper()
	w := &witnessed{fleetNode: n, t: t, disk: filepath.Join(t.TempDir(), "disk"), key: leafKey(t), refused: make(chan witness.Accusation, 16)}
	w.book = witnessing.NewBook(func(spiffeid.ID) bool { return true }, func(witnessing.Vouched) error { return nil })
	key, err := witness.NewKey(n.id, sha256.Sum256([]byte(n.id.String())))
	if err != nil {
		t.Fatal(err)
	}
	keeper := witness.New(witness.Config{
		Self: n.id, Key: key, Store: openStore(t, filepath.Join(t.TempDir(), "witness.db")), Now: time.Now, Log: w.book.Log,
		Roster: func(h [32]byte) (witness.Roster, bool) { return w.book.ByHash(h, time.Now()) },
		Refused: func(_ witness.Log, _ witness.Reason, _ string, c *witness.Conflict) {
			if c != nil {
				w.refused <- witness.Accusation{Conflict: *c}
			}
		},
	})
	w.gatherer = witnessing.NewGatherer(witnessing.Config{
		Self: n.id, Dir: w.dir(), Book: w.book, Log: slog.New(slog.DiscardHandler), Trail: w.trail.Load,
		Ask: func(ctx context.Context, peer spiffeid.ID, request []byte) ([]byte, error) {
			return (&App{peering: n.peering}).askPeer(ctx, peer, protoWitness, request, witness.MaxAnswer)
		},
	})
	serving := &App{answering: turns.New(policyAnswers, policyAnswersEach), log: slog.New(slog.DiscardHandler)}
	n.link.Handle(protoWitness, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		serving.serveQuestion(ctx, peer, s, witness.MaxRequest, func(peer spiffeid.ID, b []byte) ([]byte, error) { return keeper.Add(peer, b).Encode(), nil })
	})
	n.link.OnPeer(func(_ spiffeid.ID, up bool) {
		if up {
			w.gatherer.Wake()
		}
	})
	w.up()
	origin, err := trail.Origin(n.id, 1)
	if err != nil {
		t.Fatal(err)
	}
	record, err := witnessing.NewRecord(w.key, origin, key.Verifier(), nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	value, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	n.put(t, feed.KindTrail, witnessing.KeysName, value)
	return w
}

func (w *witnessed) dir() string { return filepath.Join(w.disk, "trail") }

// up opens the node's store and trail, and down closes them.
func (w *witnessed) up() {
	w.t.Helper()
	if err := os.MkdirAll(w.disk, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.store = openStore(w.t, filepath.Join(w.disk, "store.db"))
	tr, err := trail.Open(trail.Config{
		Dir: w.dir(), Node: w.id, Epoch: 1, Key: w.key, Store: w.store, Roster: w.gatherer.Roster, OnHead: w.gatherer.Wake,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.trail.Store(tr)
	w.gatherer.Wake()
}

func (w *witnessed) down() {
	w.t.Helper()
	if err := errors.Join(w.trail.Swap(nil).Close(), w.store.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// head is the node's newest.
func (w *witnessed) head() trail.Head { return w.trail.Load().Head() }

func (w *witnessed) leaf(n int) {
	w.t.Helper()
	if err := w.store.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.AdminAction, map[string]int{"n": n}) }); err != nil {
		w.t.Fatal(err)
	}
}

// await waits until the node's newest head has leaves or more, and is witnessed.
func (w *witnessed) await(leaves uint64, within time.Duration) (took time.Duration) {
	w.t.Helper()
	began := time.Now()
	for h := w.head(); h.Size < leaves || h.Unwitnessed; h = w.head() {
		if time.Since(began) > within {
			w.t.Fatalf("%s: %d leaves, unwitnessed %t, after %s: %+v", w.id, h.Size, h.Unwitnessed, within, w.gatherer.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func (w *witnessed) judge(raw []byte) witness.Verdict {
	w.t.Helper()
	c, err := trail.OpenCheckpoint(raw, w.trail.Load().VerifierKey())
	if err != nil {
		w.t.Fatal(err)
	}
	return witness.Judge(c, func(h [32]byte) (witness.Roster, bool) {
		r, err := witnessing.ReadRoster(w.dir(), h)
		return r, err == nil
	})
}

// A region of six over the real links in virtual time: heads become witnessed, wait while
// the node is cut off and follow by themselves; a restored disk is refused by everybody.
func TestHeadsAreWitnessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 6)
		defer f.close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all []*witnessed
		for _, n := range f.nodes {
			w := f.witnessing(n)
			all = append(all, w)
			defer w.down()
		}
		for _, w := range all {
			go follow(ctx, w)
			go func() { _ = w.gatherer.Run(ctx) }()
		}
		for _, w := range all {
			w.await(2, 60*time.Second)
		}
		w := all[2]
		time.Sleep(5 * time.Second)
		w.leaf(1)
		took := w.await(3, 10*time.Second)
		t.Logf("a leaf is under a witnessed head after %s", took)
		if took > 2500*time.Millisecond {
			t.Errorf("a leaf is under a witnessed head only after %s", took)
		}
		v := w.judge(w.head().Raw)
		if !v.Good || len(v.By) < witness.Quorum || slices.ContainsFunc(v.By, func(c witness.Cosignature) bool { return c.Witness == w.id }) {
			t.Errorf("%+v", v)
		}

		// Cut off: leaves are recorded, heads signed, and nothing is witnessed.
		f.divide(func(a, b netip.AddrPort) bool { return (a == w.addr) != (b == w.addr) })
		before := w.head()
		w.leaf(2)
		time.Sleep(time.Minute)
		if h := w.head(); h.Size != before.Size+1 || !h.Unwitnessed || len(w.gatherer.State().Refused) != witness.Chosen {
			t.Errorf("cut off: %+v, %+v", h, w.gatherer.State())
		}
		if c, ok := w.trail.Load().Witnessed(); !ok || c.Size != before.Size {
			t.Errorf("the witnessed head is %+v", c)
		}
		f.divide(nil)
		t.Logf("witnessed %s after the heal", w.await(before.Size+1, 2*time.Minute))

		// The disk of now is put aside, the node goes on, and the old disk comes back.
		w.down()
		copied := filepath.Join(t.TempDir(), "old")
		if err := os.CopyFS(copied, os.DirFS(w.disk)); err != nil {
			t.Fatal(err)
		}
		w.up()
		size := w.head().Size
		for n := range 3 {
			w.leaf(10 + n)
		}
		w.await(size+3, 30*time.Second)
		w.down()
		if err := errors.Join(os.RemoveAll(w.disk), os.CopyFS(w.disk, os.DirFS(copied))); err != nil {
			t.Fatal(err)
		}
		w.up()
		time.Sleep(10 * time.Second)
		if s := w.gatherer.State(); s.Ahead != 0 && s.Ahead != size+3 || w.head().Size != size {
			t.Errorf("the old disk: %+v, %+v", w.head(), s)
		}
		for n := range 5 {
			w.leaf(20 + n)
		}
		time.Sleep(40 * time.Second)
		if h := w.head(); !h.Unwitnessed || h.Size != size+5 {
			t.Errorf("the other history is witnessed: %+v", h)
		}
		proofs := 0
		for _, peer := range all {
			select {
			case a := <-peer.refused:
				if c, err := a.Verify(); err != nil || c.Origin != fmt.Sprintf("east.dev.example/trail/%s/1", filepath.Base(w.id.Path())) {
					t.Errorf("%+v, %v", c, err)
				}
				proofs++
			default:
			}
		}
		if proofs < witness.Quorum {
			t.Errorf("%d of its witnesses hold a proof: %+v", proofs, w.gatherer.State())
		}
		cancel()
	})
}

// follow has a node's book follow its replica.
func follow(ctx context.Context, w *witnessed) {
	for c, err := range w.replica.Watch(ctx, "/", 0) {
		if err != nil {
			return
		}
		if c.Kind == feed.KindTrail && !c.Deleted {
			w.book.Heard(c.Owner, c.Value)
			w.gatherer.Wake()
		}
	}
}
