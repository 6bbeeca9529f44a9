package witnessing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func node(i int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/n%d", i))
}

// record makes the keys that a node shows in an epoch.
func record(t testing.TB, id spiffeid.ID, epoch uint64) (Record, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	origin, err := trail.Origin(id, epoch)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := trail.VerifierKey(origin, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	w, err := witness.NewKey(id, sha256.Sum256([]byte(origin)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRecord(key, origin, w.Verifier(), nil, t0)
	if err != nil || r.Trail != vkey {
		t.Fatal(err)
	}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return r, b
}

func anybody(Vouched) error { return nil }

func TestBook(t *testing.T) {
	allowed := map[spiffeid.ID]bool{}
	b := NewBook(func(id spiffeid.ID) bool { return allowed[id] }, anybody)
	if b.Roster(t0).Hash() != ([32]byte{}) {
		t.Error("an empty book has a roster")
	}
	for i := range 6 {
		_, v := record(t, node(i), 1)
		b.Heard(node(i), v)
		allowed[node(i)] = i != 5
	}
	first := b.Roster(t0)
	if n := len(first.Members()); n != 5 {
		t.Errorf("%d members", n)
	}
	r, v := record(t, node(0), 2)
	b.Heard(node(0), v)
	if l, ok := b.Log("east.dev.example/trail/n0/2"); !ok || l.Owner != node(0) || l.Key != r.Trail {
		t.Errorf("%+v %t", l, ok)
	}
	for _, origin := range []string{"east.dev.example/trail/n0/1", "east.dev.example/trail/n0", "", "east.dev.example/trail/n9/1"} {
		if l, ok := b.Log(origin); ok {
			t.Errorf("%q: %+v", origin, l)
		}
	}
	second := b.Roster(t0.Add(time.Second))
	for _, want := range []witness.Roster{first, second} {
		if got, ok := b.ByHash(want.Hash(), t0.Add(time.Second)); !ok || got.Hash() != want.Hash() {
			t.Error("a roster of a moment ago is unknown")
		}
	}
	if _, ok := b.ByHash([32]byte{}, t0); ok {
		t.Error("there is a roster without a hash")
	}
	// Another's keys, and keys that are none, leave a node without.
	_, other := record(t, node(1), 1)
	b.Heard(node(2), other)
	b.Heard(node(3), []byte("nonsense"))
	b.Gone(node(4))
	if n := len(b.Roster(t0.Add(2 * time.Second)).Members()); n != 2 {
		t.Errorf("%d members", n)
	}
}

// What a peer names may be newer here than the last look: it is looked at once a second.
func TestUnknownRosterIsLookedUpOnceASecond(t *testing.T) {
	looks := 0
	b := NewBook(func(spiffeid.ID) bool { looks++; return true }, anybody)
	_, v := record(t, node(0), 1)
	b.Heard(node(0), v)
	b.Roster(t0)
	for range 5 {
		b.ByHash([32]byte{1}, t0.Add(100*time.Millisecond))
	}
	if looks != 1 {
		t.Errorf("%d looks", looks)
	}
	b.ByHash([32]byte{1}, t0.Add(2*time.Second))
	if looks != 2 {
		t.Errorf("%d looks", looks)
	}
}

func TestSchema(t *testing.T) {
	_, good := record(t, node(0), 1)
	if err := Schema(KeysName, good); err != nil {
		t.Error(err)
	}
	a, err := witness.Accusation{Conflict: witness.Conflict{Key: "k", First: []byte("a"), Second: []byte("b")}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	digest := witness.Conflict{Key: "k"}.Digest()
	if err := Schema(ForkName(digest), a); err != nil {
		t.Error(err)
	}
	for name, v := range map[string][]byte{KeysName: a, ForkName(digest): good, ForkName([32]byte{1}): a, "else": good} {
		if Schema(name, v) == nil {
			t.Errorf("%s takes %d bytes", name, len(v))
		}
	}
}

func TestReadRoster(t *testing.T) {
	_, v := record(t, node(0), 1)
	b := NewBook(func(spiffeid.ID) bool { return true }, anybody)
	b.Heard(node(0), v)
	r, dir := b.Roster(t0), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, RostersDir), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, RostersDir, fmt.Sprintf("%x", r.Hash()))
	if err := os.WriteFile(path, r.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRoster(dir, r.Hash()); err != nil || got.Hash() != r.Hash() {
		t.Error(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRoster(dir, r.Hash()); !errors.Is(err, witness.ErrRoster) {
		t.Error(err)
	}
	if _, err := ReadRoster(dir, [32]byte{1}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzSchema(f *testing.F) {
	_, good := record(f, node(0), 1)
	f.Add(KeysName, good)
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if Schema(name, b) == nil && name == KeysName {
			v, err := ReadRecord(b)
			if err != nil || v.Owner.IsZero() || v.Trail == "" {
				t.Errorf("%+v, %v", v, err)
			}
		}
	})
}

// Keys for which nobody stands are nobody's, until somebody does.
func TestBookWantsKeysVouchedFor(t *testing.T) {
	trusted := false
	b := NewBook(func(spiffeid.ID) bool { return true }, func(Vouched) error {
		if trusted {
			return nil
		}
		return errors.New("nobody does")
	})
	for i := range 6 {
		_, v := record(t, node(i), 1)
		b.Heard(node(i), v)
	}
	if _, ok := b.Log("east.dev.example/trail/n0/1"); ok || len(b.Roster(t0).Members()) != 0 || b.Record(node(0)) != nil {
		t.Error("keys are taken for which nobody stands")
	}
	trusted = true
	if _, ok := b.Log("east.dev.example/trail/n0/1"); !ok || len(b.Roster(t0).Members()) != 6 || b.Record(node(0)) == nil {
		t.Error("keys are not taken for which somebody stands now")
	}
}
