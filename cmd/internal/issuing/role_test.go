package issuing

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// TestNesting: keys of an issuer that is its own anchor are not used below an upstream,
// nor the other way round; nothing is begun.
func TestNesting(t *testing.T) {
	own, err := issuer.NewCA(tdEast, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	nested, err := issuer.NewNestedCA(t.Context(), tdEast, newCertifier(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ca       *issuer.CA
		upstream *config.Upstream
	}{"own root below an upstream": {own, &config.Upstream{}}, "nested without one": {nested, nil}} {
		dir := t.TempDir()
		if err := c.ca.Save(dir); err != nil {
			t.Fatal(err)
		}
		i, err := Open(Config{Node: config.Config{Node: nodeN1, Issuer: &config.Issuer{Keys: config.Path(dir), Upstream: c.upstream}}})
		if !errors.Is(err, ErrNesting) || i.outer != nil || i.inner != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeysOfAnotherRegion: an issuer signs with nothing but its own region's keys.
func TestKeysOfAnotherRegion(t *testing.T) {
	west := spiffeid.RequireTrustDomainFromString("west.example.org")
	for name, of := range map[string][2]spiffeid.TrustDomain{"all": {west, west}, "SVID root": {west, tdEast}, "record root": {tdEast, west}} {
		dir := t.TempDir()
		ca, err := issuer.NewCA(of[0], time.Now())
		records, rerr := epoch.NewRoot(of[1], time.Now())
		if err := errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(ca.Save(dir), records.Save(dir)); err != nil {
			t.Fatal(err)
		}
		i, err := Open(Config{Node: config.Config{Node: nodeN1, Issuer: &config.Issuer{Keys: config.Path(dir)}}})
		if !errors.Is(err, provision.ErrOtherRegion) || !strings.Contains(err.Error(), dir) || i.outer != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestKeysAreLocked: of two issuers with the same keys the second does not start, and
// does when the first is gone.
func TestKeysAreLocked(t *testing.T) {
	dir := t.TempDir()
	open := func() (*Role, error) {
		return Open(Config{Node: config.Config{Node: nodeN1, Issuer: &config.Issuer{Keys: config.Path(dir)}}, Branch: &Branch{office: &Office{}}})
	}
	first, err := open()
	if !errors.Is(err, issuer.ErrNoCA) { // it got past the lock
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, keyLock)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := open(); !errors.Is(err, ErrKeysInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("with another issuer's keys: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := open()
	if !errors.Is(err, issuer.ErrNoCA) {
		t.Errorf("after the first is gone: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestDevIDAuthority is made once.
func TestDevIDAuthority(t *testing.T) {
	dir := t.TempDir()
	first, err := openDevIDCA(dir, tdEast)
	if err != nil {
		t.Fatal(err)
	}
	again, err := openDevIDCA(dir, tdEast)
	if err != nil || !again.Certificate().Equal(first.Certificate()) {
		t.Errorf("another one at the second start: %v", err)
	}
	left, err := config.Certificates(config.Path(filepath.Join(dir, devIDCertificate)))
	if err != nil || len(left) != 1 || !left[0].Equal(first.Certificate()) {
		t.Errorf("%d certificates left for stock servers, %v", len(left), err)
	}
}

// TestBansAndEvictionsTravel from one issuer's server to another's, at once.
func TestBansAndEvictionsTravel(t *testing.T) {
	o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	roleOf := func(b *Branch) *Role {
		ca, err := issuer.NewCA(tdEast, time.Now())
		records, rerr := epoch.NewRoot(tdEast, time.Now())
		if err := errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		b.barred = make(chan struct{}, 1)
		i := &Role{Config: Config{Branch: b, Standing: func(spiffeid.ID) error { return nil }, Log: o.log}}
		srv, err := issuer.New(issuer.Config{
			CA: ca, RecordRoot: records, Endorse: b.Endorse, Epochs: b, Store: b.store, Standing: i.issues, Barred: b.Barred,
		})
		if err != nil {
			t.Fatal(err)
		}
		i.server.Store(srv)
		return i
	}
	first, second := roleOf(here), roleOf(there)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	exchange := func() {
		t.Helper()
		for _, i := range []*Role{first, second, first} {
			_, err := i.Branch.exchange(t.Context(), i.notice, i.forget)
			must(err)
		}
	}
	known := func(i *Role) int {
		t.Helper()
		all, err := i.Server().Agents()
		must(err)
		return len(all)
	}
	told := func(i *Role) {
		t.Helper()
		select {
		case <-i.Branch.barred:
		default:
			t.Error("nobody is told")
		}
	}
	must(second.Server().Unban(bannedAgent, "known there")) // a record, as an attestation leaves it
	<-there.barred
	must(first.Server().Ban(bannedAgent, "stolen"))
	told(first)
	exchange()
	if err := second.issues(bannedAgent); !errors.Is(err, ErrBannedElsewhere) || known(second) != 1 {
		t.Errorf("banned at the first: %v", err)
	}
	must(first.Server().Evict(bannedAgent, "found again"))
	told(first)
	exchange()
	if err := second.issues(bannedAgent); err != nil || known(first) != 0 || known(second) != 0 {
		t.Errorf("evicted at the first: %v, %d agents, %d at the second", err, known(first), known(second))
	}
	must(second.Server().Unban(bannedAgent, "attested again"))
	exchange()
	if known(second) != 1 {
		t.Error("an eviction of before was followed twice")
	}

	must(second.Server().Ban(bannedAgent, "stolen again"))
	must(first.Server().Unban(bannedAgent, "known here"))
	must(first.Server().Evict(bannedAgent, "once more"))
	exchange()
	if err := first.issues(bannedAgent); !errors.Is(err, ErrBannedElsewhere) || known(second) != 1 {
		t.Errorf("an eviction at the first lifted a ban of the second: %v, %d agents", err, known(second))
	}
	if e, err := second.Server().Evictions(); err != nil || len(e) != 0 {
		t.Errorf("what was followed is told as its own: %v, %v", e, err)
	}
}
