package root

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"
)

// reference is what crypto/x509 makes of l under a serial number.
func reference(t *testing.T, r *Root, l Leaf, cert *x509.Certificate) *x509.Certificate {
	t.Helper()
	uri, err := url.Parse(l.URI)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: cert.SerialNumber, RawSubject: l.Subject, URIs: []*url.URL{uri}, DNSNames: l.DNSNames,
		NotBefore: l.NotBefore, NotAfter: l.NotAfter, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, r.cert, cert.PublicKey, r.key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newLeaf(t *testing.T, now time.Time, key any) Leaf {
	t.Helper()
	subject, err := asn1.Marshal(pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Leaf{Subject: subject, Key: public, URI: "spiffe://east.dev.example/workload/shop", NotBefore: now, NotAfter: now.Add(time.Minute)}
}

// What SignLeaf signs is what crypto/x509 would sign, byte for byte.
func TestSignLeaf(t *testing.T) {
	r, now := newRoot(t), time.Now()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	plain := newLeaf(t, now, &p256.PublicKey)
	for name, change := range map[string]func(*Leaf){
		"plain":          func(*Leaf) {},
		"P-384":          func(l *Leaf) { l.Key = newLeaf(t, now, &p384.PublicKey).Key },
		"RSA":            func(l *Leaf) { l.Key = newLeaf(t, now, &rsa2048.PublicKey).Key },
		"one name":       func(l *Leaf) { l.DNSNames = []string{"shop.example"} },
		"names of 300 B": func(l *Leaf) { l.DNSNames = []string{"a.example", strings.Repeat("b", 200), strings.Repeat("c", 100)} },
		"many names":     func(l *Leaf) { l.DNSNames = strings.Fields(strings.Repeat("d.example ", 2000)) },
		"long path":      func(l *Leaf) { l.URI += strings.Repeat("/x", 900) },
		"another zone":   func(l *Leaf) { l.NotBefore = l.NotBefore.In(time.FixedZone("", 5400)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := plain
			change(&l)
			der, err := r.SignLeaf(l)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if want := reference(t, r, l, cert); !bytes.Equal(cert.RawTBSCertificate, want.RawTBSCertificate) {
				t.Errorf("got  %x\nwant %x", cert.RawTBSCertificate, want.RawTBSCertificate)
			}
			if err := cert.CheckSignatureFrom(r.cert); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("until after 2049", func(t *testing.T) { // another way to write a time
		old, err := New("test", &url.URL{Scheme: "spiffe", Host: "east.dev.example"}, time.Date(2049, 12, 31, 23, 0, 0, 0, time.UTC), 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		l := newLeaf(t, time.Date(2049, 12, 31, 23, 30, 0, 0, time.UTC), &p256.PublicKey)
		l.NotAfter = l.NotBefore.Add(time.Hour)
		der, err := old.SignLeaf(l)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil || !bytes.Equal(cert.RawTBSCertificate, reference(t, old, l, cert).RawTBSCertificate) {
			t.Error(err)
		}
	})
}

func TestSignLeafRefuses(t *testing.T) {
	r, now := newRoot(t), time.Now() // lives an hour
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := newLeaf(t, now, &key.PublicKey)
	l.NotBefore, l.NotAfter = now.Add(-time.Hour), now.Add(48*time.Hour)
	der, err := r.SignLeaf(l)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || !cert.NotBefore.Equal(r.cert.NotBefore) || !cert.NotAfter.Equal(r.cert.NotAfter) {
		t.Errorf("valid %s to %s, %v", cert.NotBefore, cert.NotAfter, err)
	}
	l.NotBefore = now.Add(2 * time.Hour)
	if _, err := r.SignLeaf(l); !errors.Is(err, ErrOutlived) {
		t.Errorf("after the root's end: %v", err)
	}
	l = newLeaf(t, now, &key.PublicKey)
	for name, names := range map[string][]string{"not ASCII": {"a", "b\u00e9"}, "not UTF-8": {"\xff"}, "too many": strings.Fields(strings.Repeat("names.example ", 4000))} {
		l.DNSNames = names
		if _, err := r.SignLeaf(l); !errors.Is(err, errName) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkSignLeaf(b *testing.B) {
	r, err := New("bench", &url.URL{Scheme: "spiffe", Host: "east.dev.example"}, time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(r.key.Public())
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	for b.Loop() {
		if _, err := r.SignLeaf(Leaf{Subject: []byte{0x30, 0}, Key: public, URI: "spiffe://east.dev.example/workload/shop", NotBefore: now, NotAfter: now.Add(time.Minute)}); err != nil {
			b.Fatal(err)
		}
	}
}
