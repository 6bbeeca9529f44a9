package opabundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// shipped is the policy of a shipped level, with a schema.
func shipped(t testing.TB, level string) bundle.Content {
	t.Helper()
	files, err := builtin.Files(level)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := bundle.PackFS(files)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bundle.Unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	c.Schemas = map[string]string{"schemas/a.json": `{"kind": "x-a", "version": 1, "schema": {"type": "integer"}}`}
	return c
}

// What is written is read again to the same content: there and back, nothing is lost.
func TestThereAndBack(t *testing.T) {
	key := newKey(t)
	for _, level := range []string{policy.Global, policy.Regional} {
		c := shipped(t, level)
		b, err := Write(c, About{Level: level, Scope: "s", Version: 7}, key)
		if err != nil {
			t.Fatal(err)
		}
		back, about, err := Read(b, &key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := c.Encode()
		got, err := back.Encode()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another content came back, %v", level, err)
		}
		if about.Level != level || about.Version != 7 || about.Scope != "s" {
			t.Errorf("%+v", about)
		}
		if err := policy.Check(policy.Level{Name: level, Modules: back.Modules, Data: back.Data, Schemas: back.Schemas}); err != nil {
			t.Error(err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	key := newKey(t)
	b, err := Write(shipped(t, policy.Regional), About{Level: policy.Regional}, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(b, &newKey(t).PublicKey); !errors.Is(err, ErrBundle) {
		t.Errorf("another key: %v", err)
	}
	for name, bad := range map[string][]byte{"rubbish": []byte("rubbish"), "nothing": nil, "cut": b[:len(b)/2], "too large": make([]byte, maxPacked+1)} {
		if _, _, err := Read(bad, &key.PublicKey); !errors.Is(err, ErrBundle) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who is not signed at all, and who signs with a shared secret, is refused.
func TestReadWantsOneKindOfSignature(t *testing.T) {
	key := newKey(t)
	for name, sign := range map[string]func(*opa.Bundle) error{
		"not signed": func(*opa.Bundle) error { return nil },
		"a shared secret": func(b *opa.Bundle) error {
			return b.GenerateSignature(opa.NewSigningConfig("secret", "HS256", ""), KeyID, true)
		},
	} {
		roots := []string{""}
		b := opa.Bundle{Data: map[string]any{"a": "b"}, Manifest: opa.Manifest{Roots: &roots}}
		if err := sign(&b); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := opa.NewWriter(&out).Write(b); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Read(out.Bytes(), &key.PublicKey); !errors.Is(err, ErrBundle) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Trap: OPA takes a certificate as a key and never looks at its end, which is why Read takes a key alone.
// Where this test fails, OPA has mended that.
func TestOPATakesExpiredCertificates(t *testing.T) {
	key := newKey(t)
	b, err := Write(shipped(t, policy.Regional), About{Level: policy.Regional}, key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	expired := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keys := map[string]*opa.KeyConfig{KeyID: {Key: expired, Algorithm: algorithm}}
	if _, err := opa.NewReader(bytes.NewReader(b)).WithBundleVerificationConfig(opa.NewVerificationConfig(keys, KeyID, "", nil)).Read(); err != nil {
		t.Error(err)
	}
}

// What OPA would run as wasm is refused, whoever signed it.
func TestReadRefusesWasm(t *testing.T) {
	key := newKey(t)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots := []string{""}
	b := opa.Bundle{Data: map[string]any{"a": "b"}, WasmModules: []opa.WasmModuleFile{{URL: "/policy.wasm", Path: "/policy.wasm", Raw: []byte("\x00asm\x01\x00\x00\x00")}},
		Manifest: opa.Manifest{Roots: &roots, WasmResolvers: []opa.WasmResolver{{Entrypoint: "a/allow", Module: "/policy.wasm"}}}}
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err := b.GenerateSignature(opa.NewSigningConfig(secret, algorithm, ""), KeyID, true); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := opa.NewWriter(&out).Write(b); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(out.Bytes(), &key.PublicKey); !errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), "wasm") {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	key := newKey(f)
	b, err := Write(shipped(f, policy.Regional), About{Level: policy.Regional}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("rubbish"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, _, err := Read(b, &key.PublicKey); err == nil {
			if _, err := c.Encode(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
