package issuer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// chips returns the TPMs of two machines.
func chips(t *testing.T) (out [2]*tpm.Device) {
	t.Helper()
	factory, err := maker.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		dir, err := os.MkdirTemp("", "bw") // short: a socket goes there
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		chip, err := factory.Manufacture(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { chip.Stop() })
		if out[i], err = tpm.Open(chip.Path()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { out[i].Close() })
	}
	return out
}

func TestRootInTPM(t *testing.T) {
	device, dir := chips(t), t.TempDir()
	ca, err := issuer.NewCAIn(device[0], east, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.LoadCA(dir); !errors.Is(err, issuer.ErrRootInTPM) {
		t.Errorf("no TPM: %v", err)
	}
	if _, err := issuer.OpenCA(dir, device[1]); !errors.Is(err, issuer.ErrRootLost) {
		t.Errorf("another TPM: %v", err)
	}
	if ca, err = issuer.OpenCA(dir, device[0]); err != nil {
		t.Fatal(err)
	}
	first := ca.Authorities()[0]
	r := newRegion(t, func(c *issuer.Config) { c.CA = ca })
	c, agent := r.attest() // its verifier is go-spiffe's, and knows the root only
	if n := len(agent.SVID.Certificates); n != 2 {
		t.Errorf("an agent SVID with %d certificates, want the intermediate as well", n)
	}

	// Rotation makes its keys there too, and the book knows whose intermediate signed.
	next, err := r.server.Prepare(issuer.X509)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.server.Activate(issuer.X509, next.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.server.Retire(issuer.X509, first.ID); !errors.Is(err, issuer.ErrAuthorityInUse) || !strings.Contains(err.Error(), r.machine.id().String()) {
		t.Errorf("retire while it is needed: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "svid-root*"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || strings.Contains(string(b), "PRIVATE KEY") || !strings.Contains(string(b), "DEVICE KEY") {
			t.Errorf("%s: %v\n%s", f, err, b)
		}
	}
	if back, err := issuer.OpenCA(dir, device[0]); err != nil || !back.Certificate().Equal(next.Certificate) || len(back.Bundle().X509Authorities()) != 2 {
		t.Errorf("after a restart: %v", err)
	}

	// With its TPM gone, the issuer goes on for the life of its intermediate, and makes
	// no half of a root.
	device[0].Close()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				got, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: r.entry(c, shop).ID, ID: shop, Key: newKey(t)}})
				if err != nil || got[0].Err != nil {
					t.Error(got, err)
					return
				}
				if _, _, err := x509svid.Verify(got[0].SVID.Certificates, ca); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if _, err := r.server.Retire(issuer.X509, first.ID); !errors.Is(err, issuer.ErrAuthorityInUse) {
		t.Errorf("retire while it is needed: %v", err)
	}
	if _, err := r.server.Prepare(issuer.X509); !errors.Is(err, tpm.ErrDevice) || len(ca.Authorities()) != 3 {
		t.Errorf("prepared without a TPM: %v, %v", ca.Authorities(), err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "svid-root*")); len(files) != 2 {
		t.Errorf("files left: %v", files)
	}
}
