package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Trap: OPA takes a certificate as the key of a bundle, also long after its end (package opabundle shows
// it). Here a key is a key: what ends is a delegation.
func TestOPAKeyIsNoCertificate(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := execute(args, &out, &out)
		return code, out.String()
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	secret := write("key.pem", "PRIVATE KEY", private)
	if code, said := run("trust", "init", "--global", filepath.Join(dir, "global")); code != 0 {
		t.Fatal(said)
	}
	tree, packed, signed := filepath.Join(dir, "global", "policy"), filepath.Join(dir, "b.tar.gz"), filepath.Join(dir, "global.policy")
	if code, said := run("policy", "publish", tree, "--key", secret, "--opa", packed); code != 0 {
		t.Fatal(said)
	}
	publish := func(opaKey string) (int, string) {
		return run("policy", "publish", packed, "--opa-key", opaKey, "--key", filepath.Join(dir, "global", "global.key.pem"), "--out", signed)
	}
	for name, ends := range map[string]time.Time{"expired": time.Now().Add(-time.Hour), "valid": time.Now().Add(time.Hour)} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "author"}, NotBefore: ends.Add(-24 * time.Hour), NotAfter: ends}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		path := write(name+".pem", "CERTIFICATE", der)
		if code, said := publish(path); code != 1 || !strings.Contains(said, "--opa-key: "+path+": a certificate, whose end nobody would look at") {
			t.Errorf("%s: exit code %d: %s", name, code, said)
		}
	}
	if code, said := publish(secret); code != 1 || !strings.Contains(said, "PRIVATE KEY, want a PUBLIC KEY") {
		t.Errorf("a private key: exit code %d: %s", code, said)
	}
	if code, said := publish(write("public.pem", "PUBLIC KEY", public)); code != 0 {
		t.Errorf("the key alone: exit code %d: %s", code, said)
	}
}

// A bundle says of which level and scope it is: that of the folder's packages and its tree, or of the
// delegation. What no node would take is not packed.
func TestOPABundleSaysWhatItIs(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := execute(args, &out, &out)
		return code, out.String()
	}
	must := func(args ...string) {
		t.Helper()
		if code, said := run(args...); code != 0 {
			t.Fatal(said)
		}
	}
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	must("trust", "init", "--region", "east", "--trust-domain", "east.example.org", in("east"))
	must("policy", "init", in("tree"))
	key, tree, packed := in("east", "policy.key.pem"), in("tree", "regional"), in("b.tar.gz")
	if code, said := run("policy", "publish", tree, "--key", key, "--opa", packed, "-o", "json"); code != 0 || !strings.Contains(said, `"level": "regional"`) || !strings.Contains(said, `"scope": "east.example.org"`) {
		t.Errorf("exit code %d: %s", code, said)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a folder with --opa-key": {[]string{tree, "--opa-key", key}, 2, "--opa-key says who signed an OPA bundle, a FILE"},
		"a bundle without":        {[]string{packed}, 2, "--opa-key FILE is required"},
	} {
		if code, said := run(append([]string{"policy", "publish"}, c.args...)...); code != c.code || !strings.Contains(said, c.want) {
			t.Errorf("%s: exit code %d: %s", name, code, said)
		}
	}
	if err := os.WriteFile(in("tree", "regional", "bad.rego"), []byte("package bailiwick.regional.connect\n\nimport rego.v2\n\ndeny contains \"x\" if input.sourc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, said := run("policy", "publish", tree, "--key", key, "--opa", packed); code != 1 || !strings.Contains(said, "bad.rego:5:") || !strings.Contains(said, "did you mean source?") {
		t.Errorf("broken: exit code %d: %s", code, said)
	}
	if err := os.Remove(in("tree", "regional", "bad.rego")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(in("tree", "tree.json")); err != nil {
		t.Fatal(err)
	}
	if code, said := run("policy", "publish", tree, "--key", key, "--opa", packed); code != 0 || !strings.Contains(said, "OPA bundle of") {
		t.Errorf("no scope: exit code %d: %s", code, said)
	}
}
