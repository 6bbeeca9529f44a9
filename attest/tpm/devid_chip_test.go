package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// devidCA certifies DevIDs in tests.
func devidCA(t *testing.T) (certify func(pub any) []byte, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "DevID CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	issue := func(t2 *x509.Certificate, pub any) []byte {
		der, err := x509.CreateCertificate(rand.Reader, t2, tmpl, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	root, err := x509.ParseCertificate(issue(tmpl, key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(root)
	return func(pub any) []byte {
		return issue(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "n1"}, NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter}, pub)
	}, roots
}

func TestDevID(t *testing.T) {
	n := newNode(t)
	d, err := n.keys.NewDevID()
	if err != nil {
		t.Fatal(err)
	}
	public, private := d.Files()
	if d, err = n.keys.OpenDevID(public, private); err != nil { // as after a restart
		t.Fatal(err)
	}
	certify, roots := devidCA(t)
	chain := [][]byte{certify(d.Key().Public())}
	dir := filepath.Join(t.TempDir(), "devid")
	for range 2 { // the second time over the first
		if err := d.Write(dir, chain); err != nil {
			t.Fatal(err)
		}
	}
	back, got, err := n.keys.ReadDevID(dir)
	if err != nil || len(got) != 1 || !bytes.Equal(got[0], chain[0]) || !back.Key().Public().(*ecdsa.PublicKey).Equal(d.Key().Public()) {
		t.Fatal(got, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 || len(files) != 3 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	if err := d.Write(dir, [][]byte{certify(n.keys.Node().Public())}); !errors.Is(err, tpm.ErrDevID) {
		t.Errorf("another's certificate: %v", err)
	}
	if err := d.Write(dir, nil); !errors.Is(err, tpm.ErrDevID) {
		t.Errorf("no certificate: %v", err)
	}
	if _, _, err := n.keys.ReadDevID(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
	v := &tpm.DevIDVerifier{DevIDRoots: roots, EK: *n.verifier()}
	v.EK.Intermediates = x509.NewCertPool() // SPIRE's message has no room for them
	v.EK.Intermediates.AddCert(n.ca.Intermediate())
	for range 2 { // the RSA AK is made once and used again
		payload, err := d.Begin(chain)
		if err != nil {
			t.Fatal(err)
		}
		s, err := v.Begin(time.Now(), payload)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := d.Answer(s.Challenge(), n.exporter, n.spki(t), n.feed)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Finish(time.Now(), answer, n.exporter, n.spki(t))
		if err != nil {
			t.Fatal(err)
		}
		if c.EKHash != n.keys.EKHash() || !c.NodeKey.Equal(n.keys.Node().Public()) || c.FeedKey == nil || c.AK == nil || c.Subject != "n1" {
			t.Errorf("%+v", c)
		}
	}
	// What SPIRE's server reads, it can read: sizes as measured against it.
	payload, err := d.Begin(chain)
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ AKPub, EKPub, DevIDPub, CertificationSignature []byte }
	if err := json.Unmarshal(payload, &m); err != nil || !bytes.HasPrefix(m.AKPub, []byte{0, 1}) || !bytes.HasPrefix(m.EKPub, []byte{0, 1}) ||
		!bytes.Equal(m.DevIDPub, public) || !bytes.HasPrefix(m.CertificationSignature, []byte{0, 0x14, 0, 0x0b}) {
		t.Errorf("%+v, %v", m, err)
	}
	// A CSR for a key outside the TPM is answered, and not bound.
	s, err := v.Begin(time.Now(), payload)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := d.Answer(s.Challenge(), n.exporter, []byte("another key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Finish(time.Now(), answer, n.exporter, []byte("another key")); err != nil || c.NodeKey != nil {
		t.Errorf("%+v, %v", c, err)
	}

	// Asking for a certificate, with the AK of bailiwick_tpm.
	claims, err := n.attest(t, n.verifier())
	if err != nil {
		t.Fatal(err)
	}
	attest, signature, err := d.Request(n.exporter)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm.VerifyDevIDRequest(claims.AKPub, public, attest, signature, n.exporter)
	if err != nil || !key.Equal(d.Key().Public()) {
		t.Errorf("%v, %v", key, err)
	}

	for name, err := range map[string]error{
		"no certificate": second(d.Begin(nil)), "another's certificate": second(d.Begin([][]byte{certify(n.keys.Node().Public())})),
		"damaged public": second(n.keys.OpenDevID(public[1:], private)), "no private": second(n.keys.OpenDevID(public, nil)),
	} {
		if !errors.Is(err, tpm.ErrDevID) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := newNode(t)
	if _, err := other.keys.OpenDevID(public, private); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("another TPM: %v", err)
	}
	for _, ch := range []string{"x", "{}", `{"DevID":"AA==","CredActivation":null}`} {
		if _, err := d.Answer([]byte(ch), n.exporter, nil, nil); !errors.Is(err, tpm.ErrChallenge) {
			t.Errorf("%s: %v", ch, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
