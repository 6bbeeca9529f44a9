package cache

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

var now = time.Unix(1_700_000_000, 0)

// tpmKey is a signer whose private key cannot be had.
type tpmKey struct{ crypto.Signer }

func makeSVID(t testing.TB) *x509svid.SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString("spiffe://east.dev.example/workload/shop")
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: now, NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key, Hint: "internal"}
}

func sample(t testing.TB) Contents {
	t.Helper()
	svid := makeSVID(t)
	workload, err := FromSVID("entry-1", svid)
	if err != nil {
		t.Fatal(err)
	}
	return Contents{
		SavedAt: now.Unix(),
		SVIDs:   []SVID{workload},
		Trust:   [][]byte{{4, 5}},
		Entries: []Entry{{ID: "entry-1", SPIFFEID: svid.ID.String(), Selectors: []string{"unix:uid:1000"}, DNSNames: []string{}, Hint: "internal", TTL: 3600, Revision: 2}},
		Epochs:  [][]byte{{1, 2, 3}}, Class: "node", Endorsement: []byte{6}, TPMEpoch: 7, InUse: 8,
	}
}

func open(t testing.TB, dir string) *Cache {
	t.Helper()
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	if _, err := c.Load(); !errors.Is(err, ErrNone) {
		t.Fatalf("before the first Save: %v", err)
	}
	want := sample(t)
	for range 2 { // the second replaces the first
		if err := c.Save(want, now); err != nil {
			t.Fatal(err)
		}
	}
	got, err := open(t, dir).Load()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	svid, err := got.SVIDs[0].X509()
	if err != nil || svid.ID.String() != got.Entries[0].SPIFFEID || svid.Hint != "internal" {
		t.Errorf("SVID: %+v, %v", svid, err)
	}
	onDisk, _ := os.ReadFile(c.Path())
	for _, secret := range [][]byte{want.SVIDs[0].Key, want.SVIDs[0].Chain, []byte("east.dev.example")} {
		if bytes.Contains(onDisk, secret) {
			t.Error("cache.bin holds plain text")
		}
	}
	for name, mode := range map[string]os.FileMode{"cache.key": 0o600, "cache.bin": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	if c.Derive("a") == c.Derive("b") || c.Derive("a") != open(t, dir).Derive("a") {
		t.Error("Derive is not a function of its label alone")
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	if err := c.Save(sample(t), now); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(c.Path())
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		if err := os.WriteFile(c.Path(), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n := range good {
		if n < 64 || n%37 == 0 {
			put(good[:n])
			if _, err := c.Load(); !errors.Is(err, ErrDamaged) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
			flipped := bytes.Clone(good)
			flipped[n] ^= 1
			put(flipped)
			if _, err := c.Load(); !errors.Is(err, ErrDamaged) && n != len(magic) {
				t.Fatalf("bit flipped at %d: %v", n, err)
			}
		}
	}
	newer := bytes.Clone(good)
	newer[len(magic)] = version + 1
	put(newer)
	if _, err := c.Load(); !errors.Is(err, ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
	put(append(bytes.Clone(good), make([]byte, MaxSize)...))
	if _, err := c.Load(); !errors.Is(err, ErrDamaged) {
		t.Errorf("oversized: %v", err)
	}
	to, err := c.SetAside(now)
	if err != nil || !strings.HasPrefix(to, c.Path()) {
		t.Fatalf("SetAside: %q, %v", to, err)
	}
	if _, err := c.Load(); !errors.Is(err, ErrNone) {
		t.Errorf("after SetAside: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	if err := c.Save(sample(t), now); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "cache.key")
	steps := []struct {
		name string
		do   func() error
		want error
	}{
		{"open to others", func() error { return os.Chmod(key, 0o644) }, ErrKeyExposed},
		{"truncated", func() error { return errors.Join(os.Chmod(key, 0o600), os.Truncate(key, 7)) }, ErrKey},
		{"missing beside a cache", func() error { return os.Remove(key) }, ErrKeyMissing},
		{"a folder", func() error { return os.Mkdir(key, 0o700) }, ErrKey},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, s.want) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	if err := errors.Join(os.Remove(key), os.WriteFile(key, make([]byte, keySize), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Load(); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
}

// TestFullDisk: a Save that fails leaves the last contents.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	want := sample(t)
	if err := c.Save(want, now); err != nil {
		t.Fatal(err)
	}
	// A device that is always full stands where the temporary file goes.
	if err := os.Symlink("/dev/full", c.Path()+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := c.Save(Contents{}, now); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("save to a full disk: %v", err)
	}
	if got, err := c.Load(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the last contents are lost: %v", err)
	}
	if err := c.Save(Contents{Epochs: [][]byte{make([]byte, MaxSize)}}, now); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestKeyElsewhere(t *testing.T) {
	svid := makeSVID(t)
	soft := svid.PrivateKey
	svid.PrivateKey = tpmKey{soft}
	cached, err := FromSVID("", svid)
	if err != nil || len(cached.Key) != 0 {
		t.Fatalf("%v, %v", cached, err)
	}
	if _, err := cached.X509(); !errors.Is(err, ErrKeyElsewhere) {
		t.Errorf("X509: %v", err)
	}
	if got, err := cached.With(tpmKey{soft}); err != nil || got.ID != svid.ID {
		t.Errorf("With: %v, %v", got, err)
	}
	if _, err := cached.With(makeSVID(t).PrivateKey); err == nil {
		t.Error("With takes another key")
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	s := SVID{Key: Key("secret")}
	j, _ := json.Marshal(s)
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "key", s.Key, "svid", s)
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %x %s %q %d", s, s, s, s, s.Key, s.Key, s.Key), string(j), logged.String()} {
		for _, leak := range []string{"secret", "736563726574", "c2VjcmV0", "115 101 99"} {
			if strings.Contains(out, leak) {
				t.Errorf("prints %q", out)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := open(f, f.TempDir())
	if err := c.Save(sample(f), now); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(c.Path())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := c.decode(b)
		if err == nil != bytes.Equal(b, good) {
			t.Errorf("%v for %d bytes", err, len(b))
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
			t.Errorf("untyped: %v", err)
		}
	})
}
