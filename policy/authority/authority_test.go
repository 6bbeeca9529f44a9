package authority

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

var (
	td   = spiffeid.RequireTrustDomainFromString("east.dev.example")
	self = spiffeid.RequireFromPath(td, "/node/east-n1")
	shop = spiffeid.RequireFromPath(td, "/workload/shop")
	t0   = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
)

func openStore(t testing.TB, path string) *store.Store {
	t.Helper()
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	dir := t.TempDir()
	key, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(key, self, Regional, openStore(t, filepath.Join(dir, "store.db")), nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *Authority) keys(l Level) Signers {
	if l == a.level {
		return Signers{Keys: []*ecdsa.PublicKey{a.key.Public()}}
	}
	return Signers{}
}

func goodRecord() Record {
	return Record{
		Region: "east", Master: self,
		Autonomy: Autonomy{CanOperateIsolated: true},
		Sync:     Sync{Upstream: "global", Frequency: 10 * time.Second, Mode: "both", BatchSize: 64, RetryPolicy: "exponential"},
		Lease:    LeaseTerms{Duration: 72 * time.Hour, Degraded: RenewOnly},
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenKey(dir)
	if err != nil || !first.Public().Equal(second.Public()) {
		t.Fatalf("opened again: another key, or %v", err)
	}
	path := filepath.Join(dir, keyName)
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %#o", info.Mode().Perm())
	}
	asJSON, _ := json.Marshal(struct{ K *Key }{first})
	out := fmt.Sprintf("%v %+v %#v %s %x %d ", first, first, first, first, first, struct{ K *Key }{first}) + string(asJSON)
	scalar, err := first.secret.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(out, "redacted") != 7 || strings.Contains(out, fmt.Sprintf("%x", scalar)) {
		t.Errorf("the key prints itself: %s", out)
	}
	os.Chmod(path, 0o644)
	if _, err := OpenKey(dir); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("readable by others: %v, want %v", err, keyfile.ErrExposed)
	}
	os.Chmod(path, 0o600)
	os.WriteFile(path, []byte("-----BEGIN"), 0o600)
	if _, err := OpenKey(dir); !errors.Is(err, keyfile.ErrDamaged) {
		t.Errorf("damaged: %v, want %v", err, keyfile.ErrDamaged)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestPublishAndOpen(t *testing.T) {
	a := newAuthority(t)
	rec, err := a.SetRecord(t0, goodRecord())
	if err != nil {
		t.Fatal(err)
	}
	svc, err := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{shop, shop}})
	if err != nil {
		t.Fatal(err)
	}
	book := NewBook(td, a.keys)
	for _, raw := range [][]byte{rec.Raw, svc.Raw} {
		if _, changed, err := book.Add(raw); err != nil || !changed {
			t.Fatalf("%v %v", changed, err)
		}
	}
	if got := book.Record("east"); got.Lease.Duration != 72*time.Hour || got.Level != Regional || got.Sync.BatchSize != 64 {
		t.Errorf("record: %+v", got)
	}
	if s := book.Service("shop"); !s.Allows(shop) || s.Allows(self) || len(s.IDs) != 1 {
		t.Errorf("service: %+v", s)
	}
	if s := book.Service("none"); s.Allows(shop) || s.Allows(spiffeid.ID{}) {
		t.Error("an unknown service allows somebody")
	}
	again, err := a.SetService(t0.Add(time.Hour), Service{Name: "shop", IDs: []spiffeid.ID{shop}})
	if err != nil || again.Version != 1 {
		t.Errorf("the same content made version %d (%v)", again.Version, err)
	}
	next, err := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{shop, self}})
	if err != nil || next.Version != 2 || next.Parent != svc.Digest || next.HLC <= svc.HLC {
		t.Errorf("next: %+v %v", next.Object, err)
	}
	entries, err := a.st.Outbox(0, 10)
	if err != nil || len(entries) != 3 || entries[0].Kind != "authority.publish" {
		t.Errorf("leaves: %+v %v", entries, err)
	}
}

func TestObjectsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	key, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	st := openStore(t, path)
	a, err := New(key, self, Regional, st, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{shop}}); err != nil {
		t.Fatal(err)
	}
	st.Close()
	a, err = New(key, self, Regional, openStore(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{self}})
	if err != nil || s.Version != 2 {
		t.Errorf("version %d after a restart (%v), want 2", s.Version, err)
	}
}

func TestRefusedContent(t *testing.T) {
	a := newAuthority(t)
	west := spiffeid.RequireFromString("spiffe://west.dev.example/workload/shop")
	if _, err := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{west}}); !errors.Is(err, ErrForeign) {
		t.Errorf("foreign service identity: %v", err)
	}
	if _, err := a.Revoke(t0, west, ""); !errors.Is(err, ErrForeign) {
		t.Errorf("foreign accused: %v", err)
	}
	if _, err := a.SetService(t0, Service{Name: "Shop", IDs: []spiffeid.ID{shop}}); !errors.Is(err, ErrMalformed) {
		t.Errorf("bad name: %v", err)
	}
	for field, change := range map[string]func(*Record){
		"region":            func(r *Record) { r.Region = "EAST" },
		"master":            func(r *Record) { r.Master = spiffeid.ID{} },
		"sync.mode":         func(r *Record) { r.Sync.Mode = "sideways" },
		"sync.batch_size":   func(r *Record) { r.Sync.BatchSize = 0 },
		"sync.retry_policy": func(r *Record) { r.Sync.RetryPolicy = "" },
		"sync.frequency":    func(r *Record) { r.Sync.Frequency = -1 },
		"lease.duration":    func(r *Record) { r.Lease.Duration = 1e6 * time.Hour },
		"lease.degraded":    func(r *Record) { r.Lease.Degraded = Full },
	} {
		r := goodRecord()
		change(&r)
		if _, err := a.SetRecord(t0, r); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if len(a.Objects()) != 0 {
		t.Error("a refused object was published")
	}
}

func TestReleaseVoidsOldEpochs(t *testing.T) {
	a := newAuthority(t)
	node := spiffeid.RequireFromPath(td, "/node/east-n2")
	ask := EpochRequest{Node: node, FeedKey: []byte("key"), Attested: true}
	old, err := a.Epochs().Allocate(t0, ask)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Release(t0, node, [][32]byte{{1}}, t0.Add(time.Hour), "restored backup", false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRelease(s.Raw, td, a.keys)
	if err != nil || r.Epoch <= old.Spare {
		t.Fatalf("release: %+v %v", r, err)
	}
	if _, err := OpenRevocation(s.Raw, td, a.keys); !errors.Is(err, ErrMalformed) {
		t.Errorf("a release was taken for a revocation: %v", err)
	}
	fresh, err := a.Epochs().Allocate(t0, ask)
	if err != nil || fresh.Epoch < r.Epoch || fresh.Class != ClassProbation {
		t.Errorf("after the release: %+v %v", fresh, err)
	}
	later, err := a.Epochs().Allocate(t0.Add(2*time.Hour), ask)
	if err != nil || later.Epoch != fresh.Epoch || later.Class != ClassNode {
		t.Errorf("after probation: %+v %v", later, err)
	}
	if r.Again {
		t.Error("the first release says it is another")
	}
	if _, err := a.Release(t0, node, [][32]byte{{2}}, t0, "the same accident", false); !errors.Is(err, ErrRepeat) {
		t.Errorf("a second release without an operator's word: %v, want %v", err, ErrRepeat)
	}
	if same, err := a.Epochs().Allocate(t0, ask); err != nil || same != fresh {
		t.Errorf("a refused release voided epochs: %+v %v", same, err)
	}
	s, err = a.Release(t0, node, [][32]byte{{2}}, t0, "again", true)
	if r, _ := s.Release(); err != nil || len(r.Digests) != 2 || s.Version != 2 || !r.Again {
		t.Errorf("second release: %+v %v", r, err)
	}
	if _, err := a.Revoke(t0, a.self, "by mistake"); !errors.Is(err, ErrOwnNode) {
		t.Errorf("the authority revokes itself: %v", err)
	}
	first, _ := a.Revoke(t0, node, "gone")
	second, err := a.Revoke(t0.Add(time.Hour), node, "other words")
	if err != nil || first.Digest != second.Digest {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := a.Release(t0, node, nil, t0, "after all", true); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked node is released: %v, want %v", err, ErrRevoked)
	}
}

func TestLease(t *testing.T) {
	limited, isolated, none := goodRecord(), goodRecord(), goodRecord()
	limited.Level, isolated.Level, none.Level = Regional, Regional, Regional
	isolated.Autonomy.CanOperateIsolated = false
	none.Sync.Upstream = ""
	tests := []struct {
		name string
		in   LeaseState
		at   time.Duration
		want LeaseStatus
	}{
		{"no record", LeaseState{LastContact: t0}, 0, LeaseStatus{Mode: DenyAll}},
		{"no upstream", LeaseState{Record: none}, 0, LeaseStatus{Unlimited: true, Mode: Full}},
		{"never heard", LeaseState{Record: limited}, 0, LeaseStatus{Mode: RenewOnly}},
		{"just heard", LeaseState{Record: limited, LastContact: t0}, 0, LeaseStatus{Remaining: 72 * time.Hour, Mode: Full}},
		{"half way", LeaseState{Record: limited, LastContact: t0}, 36 * time.Hour, LeaseStatus{Remaining: 36 * time.Hour, Mode: Full}},
		{"over", LeaseState{Record: limited, LastContact: t0}, 72 * time.Hour, LeaseStatus{Mode: RenewOnly}},
		{"clock set back", LeaseState{Record: limited, LastContact: t0, Elapsed: 71 * time.Hour}, -24 * time.Hour, LeaseStatus{Remaining: time.Hour, Mode: Full}},
		{"may not be isolated", LeaseState{Record: isolated, LastContact: t0}, time.Minute, LeaseStatus{Mode: RenewOnly}},
		{"may not be isolated, heard", LeaseState{Record: isolated, LastContact: t0}, 10 * time.Second, LeaseStatus{Remaining: 20 * time.Second, Mode: Full}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Lease(tt.in, t0.Add(tt.at)); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	var zero Mode
	if zero.MayStay() || zero.MayConnect() || zero.MayRenew() || zero.MayChange() {
		t.Error("the zero mode allows something")
	}
}

func FuzzOpen(f *testing.F) {
	a := newAuthority(f)
	rec, err := a.SetRecord(t0, goodRecord())
	if err != nil {
		f.Fatal(err)
	}
	svc, _ := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{shop}})
	rel, _ := a.Release(t0, shop, [][32]byte{{1}}, t0, "x", false)
	for _, s := range []Signed{rec, svc, rel} {
		f.Add(s.Raw)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if s, err := Open(in, td, a.keys); err == nil && !bytes.Equal(s.Raw, in) {
			t.Error("verified, and kept other bytes")
		}
	})
}

func FuzzParse(f *testing.F) {
	a := newAuthority(f)
	rec, _ := a.SetRecord(t0, goodRecord())
	svc, _ := a.SetService(t0, Service{Name: "shop", IDs: []spiffeid.ID{shop}})
	rev, _ := a.Revoke(t0, shop, "x")
	if _, err := a.Epochs().Allocate(t0, EpochRequest{Node: shop, FeedKey: []byte("key")}); err != nil {
		f.Fatal(err)
	}
	back, err := a.Rollback(t0, shop, 1, 40, "x")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []Signed{rec, svc, rev, back} {
		env, err := statement.Parse(s.Raw)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(env.Payload())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		o, err := parse(in, td)
		if err != nil {
			return
		}
		s, err := seal(a.key.secret, td, o)
		if err != nil {
			t.Fatalf("parses but cannot be sealed: %v", err)
		}
		if s.Digest != statement.Digest(in) {
			t.Error("parses but encodes otherwise")
		}
		s.Record()
		s.Service()
		if r, err := s.Rollback(); err == nil && r.Origin.TrustDomain() != td {
			t.Error("foreign origin")
		}
		if r, err := s.Release(); err == nil && r.Accused.TrustDomain() != td {
			t.Error("foreign accused")
		}
	})
}
