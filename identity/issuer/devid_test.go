package issuer_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// A machine gets a DevID by what it attested with its TPM, and then attests with
// that DevID, as a stock spire-agent does.
func TestDevID(t *testing.T) {
	dir := t.TempDir()
	factory, err := maker.NewCA(filepath.Join(dir, "maker"))
	if err != nil {
		t.Fatal(err)
	}
	chip, err := factory.Manufacture(t.Context(), filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Stop() })
	device, err := tpm.Open(chip.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	keys, err := tpm.OpenKeys(device, dir)
	if err != nil {
		t.Fatal(err)
	}
	bootLog, err := os.ReadFile(chip.BootLog())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := issuer.NewDevIDCA(east, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if ca, err = issuer.LoadDevIDCA(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.LoadDevIDCA(t.TempDir()); !errors.Is(err, issuer.ErrNoCA) {
		t.Errorf("no file: %v", err)
	}
	ek := tpm.Verifier{Roots: factory.Roots(), Intermediates: x509.NewCertPool()}
	ek.Intermediates.AddCert(factory.Intermediate())
	devids := x509.NewCertPool()
	devids.AddCert(ca.Certificate())
	r := newRegion(t, func(c *issuer.Config) {
		c.DevID = ca
		c.Attestors = append(c.Attestors, issuer.TPM{Verifier: &ek, Appraise: func(context.Context, tpm.Claims) (issuer.Record, error) { return nil, nil }},
			issuer.TPMDevID{Verifier: &tpm.DevIDVerifier{DevIDRoots: devids, EK: ek}})
	})
	feed := newKey(t)
	a, err := spire.Attest(t.Context(), r.cfg, spire.TPM{Keys: keys, FeedKey: pkix(t, &feed.PublicKey), BootLog: bootLog}, keys.Node())
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.NewDevID()
	if err != nil {
		t.Fatal(err)
	}
	c := r.dial(a)
	chain, authority, err := c.CertifyDevID(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	hash := keys.EKHash()
	if err != nil || string(authority) != string(ca.Certificate().Raw) || cert.Subject.SerialNumber != hex.EncodeToString(hash[:]) || cert.IsCA {
		t.Errorf("%v, %v", cert.Subject, err)
	}
	if _, _, err := c.CertifyDevID(t.Context(), relayedDevID{key}); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "devid-nonce") {
		t.Errorf("a request of another channel: %v", err)
	}
	fake, _ := r.attest()
	if _, _, err := fake.CertifyDevID(t.Context(), key); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("another machine's AK: %v", err)
	}

	by := spire.DevID{Key: key, Chain: chain, FeedKey: pkix(t, &feed.PublicKey)}
	d, err := spire.Attest(t.Context(), r.cfg, by, keys.Node())
	if err != nil || !strings.HasPrefix(d.SVID.ID.Path(), "/spire/agent/tpm_devid/") || !d.Reattest {
		t.Fatal(d, err)
	}
	if err := r.server.SetEntries([]issuer.Entry{{SPIFFEID: n1, ParentID: d.SVID.ID}}); err != nil {
		t.Fatal(err)
	}
	dc := r.dial(d)
	en, err := dc.Enrol(t.Context(), nil, 0, nil, 0)
	if err != nil || en.Class != "node" || len(en.Endorsement) == 0 {
		t.Fatal(en, err)
	}
	if e, err := epoch.Verify(en.Epoch, []*x509.Certificate{r.root.Certificate()}, east, time.Now()); err != nil || !e.Key.Equal(&feed.PublicKey) {
		t.Errorf("%v, %v", e, err)
	}
	results, err := dc.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: r.entry(dc, n1).ID, ID: n1, Key: keys.Node()}, {EntryID: r.entry(dc, n1).ID, ID: n1, Key: newKey(t)}})
	if err != nil || results[0].Err != nil || results[1].Err == nil {
		t.Errorf("%v, %v", results, err)
	}

	// A stock agent binds nothing: SVIDs, and no epoch certificate.
	stock, err := spire.Attest(t.Context(), r.cfg, by, newKey(t))
	if err != nil || stock.SVID.ID != d.SVID.ID {
		t.Fatal(stock, err)
	}
	other := newKey(t)
	if _, err := r.dial(stock).Enrol(t.Context(), &other.PublicKey, 0, nil, 0); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "binding") {
		t.Errorf("enrol without a binding: %v", err)
	}
	// A chain of somebody else's authority.
	foreign, err := issuer.NewDevIDCA(east, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wrong := newRegion(t, func(c *issuer.Config) {
		pool := x509.NewCertPool()
		pool.AddCert(foreign.Certificate())
		c.Attestors = []issuer.Attestor{issuer.TPMDevID{Verifier: &tpm.DevIDVerifier{DevIDRoots: pool, EK: ek}}}
	})
	if _, err := spire.Attest(t.Context(), wrong.cfg, by, keys.Node()); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "devid-chain") {
		t.Errorf("another authority: %v", err)
	}
	if got := r.leaves(); got["issuer.issue devid"] != 1 || got["issuer.refuse devid"] != 2 {
		t.Errorf("trail: %v", got)
	}
}

type relayedDevID struct{ *tpm.DevID }

func (r relayedDevID) Request(exporter []byte) (attest, signature []byte, err error) {
	return r.DevID.Request(make([]byte, len(exporter)))
}
