package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

var platform = tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}

// forgetCertificate takes the EK certificate out of the TPM, as if its maker had
// never put one in.
func (n *node) forgetCertificate(t *testing.T) {
	t.Helper()
	err := n.device.Exclusive(func(tr transport.TPM) error {
		rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(0x01c00002)}.Execute(tr)
		if err != nil {
			return err
		}
		_, err = tpm2.NVUndefineSpace{AuthHandle: platform, NVIndex: tpm2.NamedHandle{Handle: tpm2.TPMHandle(0x01c00002), Name: rsp.NVName}}.Execute(tr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// storeCertificate puts content into an NV index anybody may read.
func (n *node) storeCertificate(t *testing.T, index tpm2.TPMHandle, content []byte) {
	t.Helper()
	err := n.device.Exclusive(func(tr transport.TPM) error {
		public := tpm2.TPMSNVPublic{
			NVIndex:    index,
			NameAlg:    tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{PPWrite: true, PPRead: true, AuthRead: true, NoDA: true, PlatformCreate: true},
			DataSize:   uint16(len(content)),
		}
		if _, err := (tpm2.NVDefineSpace{AuthHandle: platform, PublicInfo: tpm2.New2B(public)}).Execute(tr); err != nil {
			return err
		}
		name, err := tpm2.NVName(&public)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: platform,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: *name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: content},
		}.Execute(tr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithoutEKCertificate(t *testing.T) {
	n := newNode(t)
	n.forgetCertificate(t)
	n.open(t)
	_, err := n.attest(t, n.verifier())
	wantCheck(t, err, "ek-chain")
	allowed := n.verifier()
	allowed.AllowEK = map[[32]byte]bool{n.keys.EKHash(): true}
	c, err := n.attest(t, allowed)
	if err != nil {
		t.Fatal(err)
	}
	if c.EKChain || c.EKMaker != "" {
		t.Errorf("chain %v, maker %q without a certificate", c.EKChain, c.EKMaker)
	}
}

// TestEKKinds attests with each kind of EK that makers certify: the RSA one that the
// factory here certifies, and those on curves, with padding after the certificate, as
// some makers leave it, and an issuer that the verifier alone knows.
func TestEKKinds(t *testing.T) {
	n := newNode(t)
	for range 2 { // made, then loaded from its context
		if c, err := n.attest(t, n.verifier()); err != nil || !c.EKChain {
			t.Fatalf("RSA-2048: %v", err)
		}
	}
	for name, kind := range map[string]struct {
		index    tpm2.TPMHandle
		template tpm2.TPMTPublic
	}{"P-256": {0x01c0000a, tpm2.ECCEKTemplate}, "P-384": {0x01c00016, tpm.EKP384}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.forgetCertificate(t)
			root, certify := ekMaker(t)
			n.storeCertificate(t, kind.index, append(certify(n.endorsementKey(t, kind.template)), make([]byte, 20)...))
			n.open(t)
			v := &tpm.Verifier{Roots: x509.NewCertPool()}
			v.Roots.AddCert(root)
			for range 2 {
				c, err := n.attest(t, v)
				if err != nil {
					t.Fatal(err)
				}
				if !c.EKChain || c.EKHash != n.keys.EKHash() {
					t.Errorf("chain %v, EK %x", c.EKChain, c.EKHash)
				}
			}
			other, _ := ekMaker(t)
			v.Roots = x509.NewCertPool()
			v.Roots.AddCert(other)
			_, err := n.attest(t, v)
			wantCheck(t, err, "ek-chain")
		})
	}
}

// endorsementKey is the TPM's EK of a template.
func (n *node) endorsementKey(t *testing.T, template tpm2.TPMTPublic) (key crypto.PublicKey) {
	t.Helper()
	err := n.device.Exclusive(func(tr transport.TPM) error {
		ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(tr)
		if err != nil {
			return err
		}
		public, err := ek.OutPublic.Contents()
		if err == nil {
			key, err = tpm2.Pub(*public)
		}
		_, flushErr := tpm2.FlushContext{FlushHandle: ek.ObjectHandle}.Execute(tr)
		return errors.Join(err, flushErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ekMaker is a maker's authority.
func ekMaker(t *testing.T) (root *x509.Certificate, certify func(crypto.PublicKey) []byte) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(tmpl, parent *x509.Certificate, key crypto.PublicKey) []byte {
		t.Helper()
		tmpl.NotAfter = time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	if root, err = x509.ParseCertificate(issue(tmpl, tmpl, signer.Public())); err != nil {
		t.Fatal(err)
	}
	return root, func(key crypto.PublicKey) []byte {
		return issue(&x509.Certificate{SerialNumber: big.NewInt(2), UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}}, root, key)
	}
}
