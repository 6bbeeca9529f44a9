package issuing

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// The first root is made in the TPM and waits to be published; it is of no use to
// another machine, and not replaced there.
func TestRootInTPM(t *testing.T) {
	mine, other := newTPM(t), newTPM(t)
	dir := filepath.Join(t.TempDir(), "keys")
	set, region := testTrust(t)
	errNoTPM := errors.New("no TPM")
	none := func() (issuer.Device, error) { return nil, errNoTPM }
	in := func(d *tpm.Device) func() (issuer.Device, error) {
		return func() (issuer.Device, error) { return d, nil }
	}
	open := func(device func() (issuer.Device, error), mode config.RootMode) (*issuer.CA, error) {
		c := config.Config{Node: nodeN1, Issuer: &config.Issuer{Keys: config.Path(dir), Root: mode}}
		return (&Role{Config: Config{Node: c, Device: device, Trust: set, Branch: &Branch{office: &Office{}}}}).openCA()
	}
	if _, err := open(none, config.RootInTPM); !errors.Is(err, errNoTPM) {
		t.Errorf("no TPM: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("something was begun without a TPM: %v", err)
	}
	draft := filepath.Join(dir, "east.draft")
	if _, err := open(in(mine), config.RootInTPM); !errors.Is(err, ErrRootMade) || !strings.Contains(err.Error(), draft) {
		t.Fatal(err)
	}
	ca, err := open(in(mine), config.RootInTPM)
	if err != nil {
		t.Fatal(err)
	}
	checkDraft(t, draft, region, ca, dir)
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(in(other), config.RootInTPM); !errors.Is(err, issuer.ErrRootLost) {
		t.Errorf("another TPM: %v", err)
	}
	if _, err := open(in(mine), config.RootOnDisk); !errors.Is(err, issuer.ErrRootInTPM) {
		t.Errorf("issuer.root is disk: %v", err)
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("%v became %v: %v", before, after, err)
	}
}

// The roots of a second issuer are made at its first start; the first one's are not.
func TestRootsOfASecondIssuer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	set, region := testTrust(t)
	open := func(o *Office) (*issuer.CA, error) {
		c := config.Config{Node: nodeN2, Issuer: &config.Issuer{Keys: config.Path(dir), Root: config.RootOnDisk}}
		return (&Role{Config: Config{Node: c, Trust: set, Branch: &Branch{office: o}}}).openCA()
	}
	if _, err := open(&Office{}); !errors.Is(err, issuer.ErrNoCA) {
		t.Errorf("beside the authority: %v", err)
	}
	if _, err := open(nil); !errors.Is(err, ErrRootMade) {
		t.Fatal(err)
	}
	ca, err := open(nil)
	if err != nil {
		t.Fatal(err)
	}
	checkDraft(t, filepath.Join(dir, "east.draft"), region, ca, dir)
}

// testTrust is the trust record of a region, and a set that holds it.
func testTrust(t *testing.T) (*trust.Set, trust.Record) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	ca, err := issuer.NewCA(tdEast, now.Add(-time.Hour))
	must(err)
	records, err := epoch.NewRoot(tdEast, now)
	must(err)
	global := p256(t)
	signed, err := trust.Sign(trust.Record{
		Region: "east", TrustDomain: tdEast, Version: 1, AuthorityKey: &p256(t).PublicKey, PolicyKey: &p256(t).PublicKey,
		X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{records.Certificate()},
		NotBefore: now.Add(-time.Hour).Truncate(time.Second), NotAfter: now.Add(time.Hour).Truncate(time.Second),
	}, global)
	must(err)
	set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
	must(err)
	record, _, err := set.Apply(signed, now)
	must(err)
	return set, record
}

// newTPM is a software TPM with nothing in it.
func newTPM(t *testing.T) *tpm.Device {
	t.Helper()
	dir, err := os.MkdirTemp("", "bw") // a unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := maker.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	soft, err := ca.Manufacture(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { soft.Stop() })
	device, err := tpm.Open(soft.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return device
}

// checkDraft: it is the record before, with one issuer more.
func checkDraft(t *testing.T, path string, before trust.Record, ca *issuer.CA, keys string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, signatures, err := trust.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	records, err := epoch.LoadRoot(keys)
	if err != nil {
		t.Fatal(err)
	}
	if signatures != 0 || r.Version != before.Version+1 || !r.AuthorityKey.Equal(before.AuthorityKey) || len(r.X509Roots) != 2 || len(r.RecordRoots) != 2 ||
		!r.X509Roots[0].Equal(before.X509Roots[0]) || !r.X509Roots[1].Equal(ca.Certificate()) || !r.RecordRoots[1].Equal(records.Certificate()) {
		t.Errorf("draft %+v with %d signatures", r, signatures)
	}
}
