package app

import (
	"crypto/ecdsa"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// regionFile signs a version of a region's record.
func regionFile(t *testing.T, global *ecdsa.PrivateKey, dir, label string, version uint64) []byte {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(label + ".example.org")
	dir = filepath.Join(dir, label)
	keys, err := provision.OpenKeys(td, filepath.Join(dir, provision.IssuerDir), filepath.Join(dir, provision.AuthorityDir), filepath.Join(dir, provision.PolicyKey))
	if err != nil {
		t.Fatal(err)
	}
	r := keys.Record(label, td, provision.ValidFor(time.Hour))
	r.Version = version
	b, err := trust.Sign(r, global)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func globalIn(t *testing.T, dir string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := provision.Global(dir)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What was imported is in force and on disk, with its leaf, or neither: break the
// commit before and after it lands, and look at the node and at what a restart finds.
func TestImportedTrustIsDurableOrNotDone(t *testing.T) {
	dir := t.TempDir()
	global := globalIn(t, filepath.Join(dir, "global"))
	east := spiffeid.RequireTrustDomainFromString("east.example.org")
	file := slices.Concat(regionFile(t, global, dir, "east", 2), regionFile(t, global, dir, "west", 1))
	for _, fault := range []store.Fault{store.NoFault, store.FaultBefore, store.FaultAfter} {
		path := filepath.Join(t.TempDir(), "store")
		st, err := store.OpenFaulty(path, func(int) store.Fault { return fault })
		if err != nil {
			t.Fatal(err)
		}
		set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
		if err != nil {
			t.Fatal(err)
		}
		a := &App{store: st, trust: set}
		items, err := a.importTrust(t.Context(), file, time.Now())
		if ok := fault == store.NoFault; (err == nil) != ok || ok && (len(items) != 2 || !items[0].Changed) {
			t.Errorf("fault %v: %v, %v", fault, items, err)
		}
		if _, inForce := set.Record(east); inForce != (fault == store.NoFault) {
			t.Errorf("fault %v: in force: %v", fault, inForce)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if st, err = store.Open(path); err != nil {
			t.Fatal(err)
		}
		kept, err := importedTrust(st)
		leaves, lerr := st.Outbox(0, 10)
		want := 2
		if fault == store.FaultBefore {
			want = 0
		}
		if err := errors.Join(err, lerr); err != nil || len(kept) != want || len(leaves) != 2*want { // who did it, and what is in force
			t.Errorf("fault %v: %d records and %d leaves after a restart, %v; want %d and twice that", fault, len(kept), len(leaves), err, want)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImportRefusesAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	global, stranger := globalIn(t, filepath.Join(dir, "global")), globalIn(t, filepath.Join(dir, "stranger"))
	one, two := regionFile(t, global, dir, "east", 1), regionFile(t, global, dir, "east", 2)
	r, _, err := trust.Read(one)
	if err != nil {
		t.Fatal(err)
	}
	draft, err := trust.Draft(r)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		file []byte
		code connect.Code
		is   error
	}{
		"one of a stranger": {slices.Concat(two, regionFile(t, stranger, dir, "west", 1)), connect.CodePermissionDenied, trust.ErrUnsigned},
		"one region twice":  {slices.Concat(one, two), connect.CodePermissionDenied, trust.ErrConflict},
		"a draft":           {draft, connect.CodePermissionDenied, trust.ErrUnsigned},
		"no file":           {[]byte("no file"), connect.CodeInvalidArgument, trust.ErrMalformed},
	} {
		st, err := store.Open(filepath.Join(t.TempDir(), "store"))
		if err != nil {
			t.Fatal(err)
		}
		set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&App{store: st, trust: set}).importTrust(t.Context(), tt.file, time.Now())
		if connect.CodeOf(err) != tt.code || !errors.Is(err, tt.is) || TrustRefusal(err) != tt.is {
			t.Errorf("%s: %v, told as %v", name, err, TrustRefusal(err))
		}
		kept, err := importedTrust(st)
		if err := errors.Join(err, st.Close()); err != nil || len(kept) != 0 || len(set.Regions()) != 0 {
			t.Errorf("%s: %d kept, %d in force, %v", name, len(kept), len(set.Regions()), err)
		}
	}
}

// A node whose global keys were changed starts with the records of its configuration:
// what the old keys vouched for is not what keeps it from starting.
func TestKeptTrustOfOldGlobalKeys(t *testing.T) {
	dir := t.TempDir()
	before, after := globalIn(t, filepath.Join(dir, "before")), globalIn(t, filepath.Join(dir, "after"))
	path := filepath.Join(dir, "east.trust")
	if err := os.WriteFile(path, regionFile(t, after, dir, "east", 1), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Config{Node: spiffeid.RequireFromString("spiffe://east.example.org/node/n1"), Trust: config.Trust{Threshold: 1, Records: []config.Path{config.Path(path)}}}
	kept := [][]byte{regionFile(t, before, dir, "east", 7), regionFile(t, before, dir, "west", 1)}
	set, err := loadTrust(c, []*ecdsa.PublicKey{&after.PublicKey}, kept)
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := set.Record(c.Node.TrustDomain()); r.Version != 1 || len(set.Regions()) != 1 {
		t.Errorf("version %d in force, %d regions", r.Version, len(set.Regions()))
	}
}
