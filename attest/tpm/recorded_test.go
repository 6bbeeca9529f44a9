package tpm_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

var update = flag.Bool("update", false, "record testdata/exchange.json again")

const recording = "testdata/exchange.json"

// exchange is one attestation of a software TPM, kept so that the wire format and
// what the verifier takes cannot change unnoticed.
type exchange struct {
	Began                           time.Time
	Root                            []byte
	Hello, Challenge, Secret, Proof []byte
	Exporter, SPKI                  []byte
	NodeKey                         []byte // what the claims must say
	CommandLine                     string
}

func record(t *testing.T) exchange {
	t.Helper()
	n := newNode(t, maker.Booting(eventlog.Boot{CommandLine: "recorded"}))
	e := exchange{Began: time.Now().UTC().Truncate(time.Second).Add(time.Second), Root: n.ca.Root().Raw, Exporter: bytes.Repeat([]byte{7}, 32), SPKI: n.spki(t), NodeKey: n.spki(t), CommandLine: "/vmlinuz recorded"}
	var err error
	if e.Hello, err = n.keys.Hello(n.feed, n.bootLog); err != nil {
		t.Fatal(err)
	}
	s, err := n.verifier().Begin(e.Began, e.Hello)
	if err != nil {
		t.Fatal(err)
	}
	e.Challenge, e.Secret = s.Challenge(), s.Secret()
	if e.Proof, err = n.keys.Prove(e.Hello, e.Challenge, e.Exporter, e.SPKI, n.bootLog); err != nil {
		t.Fatal(err)
	}
	return e
}

func load(t testing.TB) exchange {
	t.Helper()
	b, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	var e exchange
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e exchange) verify(t testing.TB) (tpm.Claims, error) {
	t.Helper()
	root, err := x509.ParseCertificate(e.Root)
	if err != nil {
		t.Fatal(err)
	}
	v := &tpm.Verifier{Roots: x509.NewCertPool()}
	v.Roots.AddCert(root)
	s, err := v.Resume(e.Began, e.Hello, e.Challenge, e.Secret)
	if err != nil {
		return tpm.Claims{}, err
	}
	return s.Finish(e.Began, e.Proof, e.Exporter, e.SPKI)
}

func TestRecorded(t *testing.T) {
	if *update {
		b, err := json.MarshalIndent(record(t), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(recording, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	e := load(t)
	c, err := e.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKIXPublicKey(c.NodeKey)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, e.NodeKey) || !slices.Equal(c.Boot.CommandLines, []string{e.CommandLine}) {
		t.Errorf("claims: key %x, command lines %q", key, c.Boot.CommandLines)
	}
}

// Whatever bit of a genuine exchange is changed, it is refused.
func TestRecordedFlips(t *testing.T) {
	e := load(t)
	for name, part := range map[string]*[]byte{
		"hello": &e.Hello, "challenge": &e.Challenge, "secret": &e.Secret, "proof": &e.Proof, "exporter": &e.Exporter, "SPKI": &e.SPKI,
	} {
		whole := *part
		for i := 0; i < len(whole); i += 5 {
			*part = slices.Clone(whole)
			(*part)[i] ^= 1 << (i % 8)
			if _, err := e.verify(t); err == nil {
				t.Errorf("%s: byte %d changed, accepted", name, i)
			}
		}
		*part = whole
	}
}

func FuzzBegin(f *testing.F) {
	e := load(f)
	f.Add(e.Hello)
	f.Add([]byte{})
	root, err := x509.ParseCertificate(e.Root)
	if err != nil {
		f.Fatal(err)
	}
	v := &tpm.Verifier{Roots: x509.NewCertPool()}
	v.Roots.AddCert(root)
	f.Fuzz(func(t *testing.T, hello []byte) {
		if _, err := v.Begin(e.Began, hello); err != nil && !errors.Is(err, tpm.ErrRefused) {
			t.Errorf("%v is no refusal", err)
		}
	})
}

func FuzzFinish(f *testing.F) {
	e := load(f)
	f.Add(e.Proof)
	f.Add([]byte{})
	genuine := slices.Clone(e.Proof)
	f.Fuzz(func(t *testing.T, proof []byte) {
		e.Proof = proof
		if _, err := e.verify(t); err == nil && !bytes.Equal(proof, genuine) {
			t.Error("changed proof accepted")
		} else if err != nil && !errors.Is(err, tpm.ErrRefused) {
			t.Errorf("%v is no refusal", err)
		}
	})
}
