package issuing

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// testOffice is the authority of a region with issuers on n1, beside it, and on n2.
func testOffice(t *testing.T, st *store.Store) (o *Office, here, there *Branch) {
	t.Helper()
	o = &Office{td: tdEast, self: nodeN1, issuers: []spiffeid.ID{nodeN2}, epochs: authority.NewEpochs(st), key: p256(t), store: st, log: slog.New(slog.DiscardHandler)}
	return o, &Branch{self: nodeN1, office: o, store: st, log: o.log}, remote(t, o, nodeN2)
}

// remote is an issuer on another node.
func remote(t *testing.T, o *Office, self spiffeid.ID) *Branch {
	t.Helper()
	return &Branch{self: self, store: openStore(t, filepath.Join(t.TempDir(), "issuer.db")), log: o.log, dial: func(context.Context) (Stream, error) {
		near, far := pair(t)
		go o.Serve(self, far) // ends with the stream
		return near, nil
	}}
}

// pair is the two ends of a stream.
func pair(t *testing.T) (near, far Stream) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

func epochsOf(node spiffeid.ID, key byte) issuer.EpochRequest {
	return issuer.EpochRequest{ID: node, FeedKeyHash: [32]byte{key}, Class: "node", Attested: true}
}

// Whoever of two issuers asks first, and however many ask at once: a key gets its own
// numbers, once, and no number is given to two keys.
func TestEpochsThroughTwoIssuers(t *testing.T) {
	_, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	for name, order := range map[string][2]*Branch{"/node/a": {here, there}, "/node/b": {there, here}} {
		node := spiffeid.RequireFromPath(tdEast, name)
		var got [2]issuer.EpochGrant
		for i, b := range order {
			var err error
			if got[i], err = b.Allocate(t.Context(), epochsOf(node, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if got[0] != got[1] || got[0] != (issuer.EpochGrant{Current: 1, Spare: 2, Class: "node"}) {
			t.Errorf("%s: %+v", name, got)
		}
		next := epochsOf(node, 2) // its key was lost, and it came to the other one
		for _, b := range order {
			if g, err := b.Allocate(t.Context(), next); err != nil || g.Current != 3 {
				t.Errorf("%s, another key: %+v, %v", name, g, err)
			}
		}
	}

	var mu sync.Mutex
	owner, grants := map[uint64]byte{}, map[byte]issuer.EpochGrant{}
	var all sync.WaitGroup
	for i := range 40 {
		b, key := []*Branch{here, there}[i%2], byte(i/8)
		all.Go(func() {
			g, err := b.Allocate(t.Context(), epochsOf(nodeN3, key))
			mu.Lock()
			defer mu.Unlock()
			if before, again := grants[key]; err != nil || again && before != g {
				t.Errorf("key %d: %+v, before %+v, %v", key, g, before, err)
			}
			grants[key] = g
			for _, n := range []uint64{g.Current, g.Spare} {
				if other, taken := owner[n]; taken && other != key {
					t.Errorf("epoch %d was given to keys %d and %d", n, other, key)
				}
				owner[n] = key
			}
		})
	}
	all.Wait()
	if len(grants) != 5 || len(owner) != 10 {
		t.Errorf("%d grants, %d epochs", len(grants), len(owner))
	}
}

// cutOff passes the question on, and loses the reply.
type cutOff struct{ Stream }

func (c cutOff) Read([]byte) (int, error) { return 0, errors.New("the link is gone") }

func TestLostReplyIsGivenAgain(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "a.db"))
	o, here, there := testOffice(t, st)
	served := make(chan struct{})
	lossy := &Branch{self: nodeN2, log: o.log, dial: func(context.Context) (Stream, error) {
		near, far := pair(t)
		go func() {
			defer close(served)
			o.Serve(nodeN2, far)
		}()
		return cutOff{near}, nil
	}}
	if g, err := lossy.Allocate(t.Context(), epochsOf(nodeN3, 1)); !errors.Is(err, issuer.ErrAuthorityAway) || g != (issuer.EpochGrant{}) {
		t.Fatalf("%+v, %v", g, err)
	}
	<-served
	for _, b := range []*Branch{here, there} {
		if g, err := b.Allocate(t.Context(), epochsOf(nodeN3, 1)); err != nil || g.Current != 1 {
			t.Errorf("asked again: %+v, %v", g, err)
		}
	}
	away := &Branch{self: nodeN2, log: o.log, dial: func(context.Context) (Stream, error) { return nil, errNoAuthority }}
	if _, err := away.Allocate(t.Context(), epochsOf(nodeN3, 1)); !errors.Is(err, issuer.ErrAuthorityAway) {
		t.Errorf("no link: %v", err)
	}
}

// A copy of the authority's disk does not know what was given out since. It gives out
// nothing twice, and no grant that it remembers.
func TestRestoredAuthority(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "a.db"))
	o, here, there := testOffice(t, st)
	seen := map[uint64]bool{}
	for key := range byte(3) {
		g, err := there.Allocate(t.Context(), epochsOf(nodeN3, key))
		if err != nil {
			t.Fatal(err)
		}
		seen[g.Current], seen[g.Spare] = true, true
	}
	for range 2 { // twice restored
		if err := o.epochs.Restored(); err != nil {
			t.Fatal(err)
		}
		for _, b := range []*Branch{here, there} {
			g, err := b.Allocate(t.Context(), epochsOf(nodeN3, 0))
			if err != nil || b == here && seen[g.Current] || g.Current <= 1<<20 {
				t.Errorf("%+v, %v", g, err)
			}
			seen[g.Current], seen[g.Spare] = true, true
		}
	}
}

// A node that wants new epochs again and again hears that it is too soon, whichever
// issuer it asks; what it has it gets.
func TestEpochsLater(t *testing.T) {
	_, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	var err error
	key := byte(0)
	for ; err == nil && key < 100; key++ {
		_, err = there.Allocate(t.Context(), epochsOf(nodeN3, key))
	}
	for _, b := range []*Branch{here, there} {
		_, err := b.Allocate(t.Context(), epochsOf(nodeN3, 100))
		if !errors.Is(err, issuer.ErrEpochsLater) || errors.Is(err, issuer.ErrAuthorityAway) || !strings.Contains(err.Error(), "may have more at") {
			t.Errorf("%v, want %v and when", err, issuer.ErrEpochsLater)
		}
		if _, err := b.Allocate(t.Context(), epochsOf(nodeN3, key-2)); err != nil {
			t.Errorf("what it has: %v", err)
		}
	}
}

func TestOfficeRefuses(t *testing.T) {
	o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	ak := p256(t)
	good := endorse.Endorsement{ID: nodeN3, AK: &ak.PublicKey, Expires: time.Now().Add(time.Hour)}
	for _, b := range []*Branch{here, there} {
		signed, err := b.Endorse(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := endorse.Verify(signed, &o.key.(*ecdsa.PrivateKey).PublicKey, tdEast, time.Now()); err != nil || e.ID != nodeN3 {
			t.Errorf("%+v, %v", e, err)
		}
	}
	foreign, long := good, good
	foreign.ID = spiffeid.RequireFromString("spiffe://west.dev.example/node/n3")
	long.Expires = time.Now().Add(30 * 24 * time.Hour)
	stranger := remote(t, o, nodeN3)
	for name, try := range map[string]func() error{
		"a node that is no issuer": func() error { _, err := stranger.Allocate(t.Context(), epochsOf(nodeN3, 1)); return err },
		"its endorsement":          func() error { _, err := stranger.Endorse(t.Context(), good); return err },
		"a node of another region": func() error { _, err := there.Allocate(t.Context(), epochsOf(foreign.ID, 1)); return err },
		"its AK":                   func() error { _, err := there.Endorse(t.Context(), foreign); return err },
		"an AK for a month":        func() error { _, err := there.Endorse(t.Context(), long); return err },
		"nothing":                  func() error { _, err := there.ask(t.Context(), question{}); return err },
		"a flood of bans":          func() error { return says(there, notice{Banned: bansOf(maxSharedBans + 1)}) },
		"half a ban":               func() error { return says(there, notice{Banned: [][]byte{make([]byte, 8)}}) },
		"a flood of keys":          func() error { return says(there, notice{Keys: make([]keyWire, maxSharedKeys+1)}) },
		"no key":                   func() error { return says(there, notice{Keys: []keyWire{{ID: "x", PKIX: []byte("junk")}}}) },
		"another curve's":          func() error { return says(there, notice{Keys: []keyWire{keyOf(t, elliptic.P384(), "x", time.Hour)}}) },
	} {
		if err := try(); err == nil || errors.Is(err, issuer.ErrAuthorityAway) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := stranger.Allocate(t.Context(), epochsOf(nodeN3, 1)); !strings.Contains(err.Error(), ErrNotIssuer.Error()) {
		t.Errorf("it is not told why: %v", err)
	}
}

// What the authority signs for an issuer, its trail tells: what, for whom, and who asked.
func TestOfficeTellsWhatItSigns(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "a.db"))
	_, here, there := testOffice(t, st)
	ak := p256(t)
	for _, b := range []*Branch{here, there} {
		if _, err := b.Endorse(t.Context(), endorse.Endorsement{ID: nodeN3, AK: &ak.PublicKey, Expires: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Allocate(t.Context(), epochsOf(nodeN3, byte(len(b.self.String())))); err != nil {
			t.Fatal(err)
		}
		if body := leafOf(t, st, trail.AuthorityPublish); !strings.Contains(body, "endorsement") || !strings.Contains(body, nodeN3.String()) || !strings.Contains(body, b.self.String()) {
			t.Errorf("for %s: %q", b.self, body)
		}
	}
	if body := leafOf(t, st, trail.AuthorityEpoch); !strings.Contains(body, nodeN1.String()) {
		t.Errorf("an epoch: %q", body)
	}
	broken, err := store.OpenFaulty(filepath.Join(t.TempDir(), "b.db"), func(int) store.Fault { return store.FaultBefore })
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	_, here, _ = testOffice(t, broken)
	if signed, err := here.Endorse(t.Context(), endorse.Endorsement{ID: nodeN3, AK: &ak.PublicKey, Expires: time.Now().Add(time.Hour)}); err == nil || signed != nil {
		t.Errorf("given and not told: %x", signed)
	}
}

// A peer's refusals are in the log once an interval, however often it asks.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	o, _, _ := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	now := time.Unix(1e9, 0)
	for i, c := range []struct {
		after time.Duration
		peer  spiffeid.ID
		want  bool
	}{{0, nodeN3, true}, {1, nodeN3, false}, {2, nodeN2, true}, {refusalEvery - 1, nodeN3, false}, {refusalEvery, nodeN3, true}, {refusalEvery + 1, nodeN3, false}} {
		if got := o.refused(now.Add(c.after), c.peer); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// FuzzHear: no question of an issuer harms the authority, and none of another node is
// looked at.
func FuzzHear(f *testing.F) {
	st, err := store.Open(filepath.Join(f.TempDir(), "a.db"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { st.Close() })
	for _, q := range []question{{}, {Epochs: &epochsWire{Node: nodeN3.String(), FeedKey: make([]byte, 32)}}, {Endorse: []byte{1}}, {Notice: &notice{Banned: bansOf(1), Evicted: evictionsOf(1)}}, {After: nodeN2.String()}, {Since: new(uint64)}} {
		b, err := statement.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	key, err := authority.OpenKey(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	o := &Office{td: tdEast, issuers: []spiffeid.ID{nodeN2}, epochs: authority.NewEpochs(st), key: key.Signer(), store: st, log: slog.New(slog.DiscardHandler)}
	over, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits for news
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := o.hear(over, time.Unix(1e9, 0), nodeN3, b); !errors.Is(err, ErrNotIssuer) {
			t.Fatal(err)
		}
		answer, _ := o.hear(over, time.Unix(1e9, 0), nodeN2, b)
		if _, err := statement.Marshal(answer); err != nil {
			t.Fatal(err)
		}
	})
}
