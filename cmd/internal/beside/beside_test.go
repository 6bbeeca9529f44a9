package beside

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

// versions are two trust records of a region.
func versions(t *testing.T, global *ecdsa.PrivateKey) (out [][]byte) {
	t.Helper()
	td, from, ca := spiffeid.RequireTrustDomainFromString("east.dev.example"), time.Now().Add(-time.Minute).Truncate(time.Second), key(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "east"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: from, NotAfter: from.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &ca.PublicKey, ca)
	must(t, err)
	root, err := x509.ParseCertificate(der)
	must(t, err)
	records, err := epoch.NewRoot(td, from)
	must(t, err)
	for v := range uint64(2) {
		signed, err := trust.Sign(trust.Record{
			Region: "east", TrustDomain: td, X509Roots: []*x509.Certificate{root}, RecordRoots: []*x509.Certificate{records.Certificate()},
			AuthorityKey: &key(t).PublicKey, PolicyKey: &key(t).PublicKey, Version: v + 1, NotBefore: from, NotAfter: from.Add(time.Hour),
		}, global)
		must(t, err)
		out = append(out, signed)
	}
	return out
}

// Every record that a node ever held stays, and a damaged one is as good as absent.
func TestKeepTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		global, dir := key(t), t.TempDir()
		set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- KeepTrust(ctx, dir, set) }()
		for i, raw := range versions(t, global) {
			_, _, err := set.Apply(raw, time.Now())
			must(t, err)
			synctest.Wait()
			if kept, err := Trust(dir); err != nil || len(kept) != i+1 {
				t.Errorf("after %d records %d are kept: %v", i+1, len(kept), err)
			}
		}
		cancel()
		must(t, <-done)
		files, err := filepath.Glob(filepath.Join(dir, TrustDir, "*"))
		must(t, err)
		must(t, os.WriteFile(files[0], []byte("x"), 0o644))
		if kept, err := Trust(dir); err != nil || len(kept) != 1 {
			t.Errorf("with one damaged, %d are left: %v", len(kept), err)
		}
		if kept, err := Trust(t.TempDir()); err != nil || len(kept) != 0 {
			t.Errorf("of no folder: %d, %v", len(kept), err)
		}
	})
}

func TestNames(t *testing.T) {
	record := versions(t, key(t))[0]
	for folder, want := range map[string]error{witnessing.RostersDir: witness.ErrRoster, witnessing.KeysDir: witnessing.ErrRecord, TrustDir: trust.ErrMalformed} {
		if err := Checks()[folder]("ab", []byte("x")); !errors.Is(err, want) {
			t.Errorf("%s: %v", folder, err)
		}
	}
	if err := Checks()[TrustDir]("ab", record); !errors.Is(err, ErrName) {
		t.Errorf("a record under another name: %v", err)
	}
}
