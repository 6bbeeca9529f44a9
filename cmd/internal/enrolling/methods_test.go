package enrolling

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// operatorCA is an authority of the operator's that certifies machines.
func operatorCA(t *testing.T) (certify func(crypto.PublicKey) []byte, roots *x509.CertPool) {
	t.Helper()
	key := p256(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	sign := func(of *x509.Certificate, pub crypto.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, of, ca, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	root, err := x509.ParseCertificate(sign(ca, key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(root)
	return func(pub crypto.PublicKey) []byte {
		return sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "n1"}, KeyUsage: x509.KeyUsageDigitalSignature,
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}, pub)
	}, roots
}

func agentOf(t *testing.T, kind string, cert []byte) spiffeid.ID {
	t.Helper()
	id, err := issuer.AgentID(tdEast, kind, fmt.Sprintf("%x", sha1.Sum(cert)))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// softTPM is a software TPM that runs until the test ends, and what an issuer is told
// of its maker: SPIRE's messages have no room for the certificate in between.
func softTPM(t *testing.T, dir string) (*maker.SoftTPM, tpm.Verifier) {
	t.Helper()
	ca, err := maker.OpenCA(filepath.Join(dir, "maker"))
	if err != nil {
		t.Fatal(err)
	}
	soft, err := ca.Manufacture(t.Context(), filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := soft.Stop(); err != nil {
			t.Error(err)
		}
	})
	var told config.Issuer
	for _, f := range []struct {
		list *[]config.Path
		name string
		cert *x509.Certificate
	}{{&told.EKRoots, "root.pem", ca.Root()}, {&told.EKIntermediates, "between.pem", ca.Intermediate()}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.cert.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		*f.list = []config.Path{config.Path(path)}
	}
	verifier, err := issuing.EKVerifier(told)
	if err != nil {
		t.Fatal(err)
	}
	return soft, verifier
}

// TestDevIDEnrolment: a node with a DevID attests by SPIRE's exchange, binds its own
// key to it, and is given epochs that count as attested.
func TestDevIDEnrolment(t *testing.T) {
	dir := t.TempDir()
	soft, makers := softTPM(t, dir)
	certify, roots := operatorCA(t)
	keys := filepath.Join(dir, "state", "keys")
	device, err := tpm.Open(soft.Path())
	if err != nil {
		t.Fatal(err)
	}
	opened, err := tpm.OpenKeys(device, keys)
	if err != nil {
		t.Fatal(err)
	}
	devid, err := opened.NewDevID()
	if err != nil {
		t.Fatal(err)
	}
	cert := certify(devid.Key().Public())
	if err := errors.Join(devid.Write(filepath.Join(dir, "devid"), [][]byte{cert}), device.Close()); err != nil {
		t.Fatal(err)
	}
	r := newTestRegion(t, []issuer.Attestor{issuer.TPMDevID{Verifier: &tpm.DevIDVerifier{DevIDRoots: roots, EK: makers}}}, agentOf(t, "tpm_devid", cert))
	c := r.config(filepath.Join(dir, "state"))
	c.TPM.Mode, c.TPM.Device, c.Enrol.DevID = "auto", soft.Path(), config.Path(filepath.Join(dir, "devid"))
	st := openStore(t, filepath.Join(dir, "state.db"))
	creds := r.start(c, st)
	for range 2 { // the second time is a renewal
		r.must(creds.renew(t.Context()))
		complete(t, creds)
	}
	if h := creds.Now(); h.Class != "node" || h.renews || len(h.Endorsement) == 0 {
		t.Errorf("class %q, renews %v, %d bytes of endorsement", h.Class, h.renews, len(h.Endorsement))
	}
	r.must(creds.machine.Close())
	again := r.start(c, st)
	complete(t, again)
	r.must(again.machine.Close())

	r.must(os.Remove(filepath.Join(dir, "devid", tpm.DevIDCertFile)))
	if err := r.start(c, st).renew(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a DevID without its certificate: %v", err)
	}
}

// TestX509PoPEnrolment: a node without a TPM attests by the operator's certificate,
// again and again, and is unattested.
func TestX509PoPEnrolment(t *testing.T) {
	dir := t.TempDir()
	certify, roots := operatorCA(t)
	key := p256(t)
	cert := certify(key.Public())
	r := newTestRegion(t, []issuer.Attestor{issuer.X509PoP{Roots: roots}}, agentOf(t, "x509pop", cert))
	c := r.config(dir)
	pop := &config.X509PoP{Cert: config.Path(filepath.Join(dir, "cert.pem")), Key: config.Path(filepath.Join(dir, "key.pem"))}
	c.Enrol.TokenFile, c.Enrol.X509PoP = "", pop
	der, err := x509.MarshalPKCS8PrivateKey(key)
	r.must(err)
	write := func(path config.Path, kind string, der []byte, mode os.FileMode) {
		r.must(os.WriteFile(string(path), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode))
	}
	write(pop.Cert, "CERTIFICATE", cert, 0o644)
	write(pop.Key, "PRIVATE KEY", der, 0o644)
	creds := r.start(c, openStore(t, filepath.Join(dir, "state.db")))
	if err := creds.renew(t.Context()); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("a key that all may read: %v", err)
	}
	r.must(os.Chmod(string(pop.Key), 0o600))
	for range 2 {
		r.must(creds.renew(t.Context()))
		complete(t, creds)
	}
	if h := creds.Now(); h.Class != "unattested" || h.renews {
		t.Errorf("class %q, renews %v", h.Class, h.renews)
	}
	write(pop.Cert, "CERTIFICATE", certify(p256(t).Public()), 0o644)
	if err := creds.renew(t.Context()); !errors.Is(err, config.ErrPEM) {
		t.Errorf("the certificate of another key: %v", err)
	}
}

// TestTPMAfterToken: a node that joined without a TPM attests by the one it gets, also
// where its key stays in memory.
func TestTPMAfterToken(t *testing.T) {
	for _, mode := range []config.NodeKeyMode{config.Resident, config.InMemory} {
		t.Run(string(mode), func(t *testing.T) {
			dir := t.TempDir()
			soft, makers := softTPM(t, dir)
			device, err := tpm.Open(soft.Path())
			if err != nil {
				t.Fatal(err)
			}
			ek, err := device.EndorsementKey()
			if err := errors.Join(err, device.Close()); err != nil {
				t.Fatal(err)
			}
			agent, err := issuer.AgentID(tdEast, "bailiwick_tpm", fmt.Sprintf("%x", ek.Hash))
			if err != nil {
				t.Fatal(err)
			}
			r := newTestRegion(t, []issuer.Attestor{issuer.TPM{
				Verifier: &makers, Appraise: func(context.Context, tpm.Claims) (issuer.Record, error) { return nil, nil },
			}}, tokenAgent(t))
			c := r.config(filepath.Join(dir, "state"))
			st := openStore(t, filepath.Join(dir, "state.db"))
			without := r.start(c, st)
			r.must(without.renew(t.Context()))
			if class := without.Now().Class; class != "unattested" {
				t.Fatalf("class %q", class)
			}
			r.must(r.server.SetEntries([]issuer.Entry{
				{SPIFFEID: nodeN1, ParentID: agent}, {SPIFFEID: workShop, ParentID: nodeN1, Selectors: []string{"unix:uid:0"}},
			}))
			c.TPM.Mode, c.TPM.Device, c.TPM.BootLog, c.TPM.NodeKey = "auto", soft.Path(), config.Path(soft.BootLog()), mode
			with := r.start(c, st)
			r.must(with.renew(t.Context()))
			complete(t, with)
			if h := with.Now(); h.Class != "node" || h.renews || len(h.Endorsement) == 0 {
				t.Errorf("class %q, renews %v", h.Class, h.renews)
			}
			r.must(with.machine.Close())
		})
	}
}
