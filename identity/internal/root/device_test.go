package root

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// device keeps keys in memory, and signs when it is let to.
type device struct {
	mu     sync.Mutex
	keys   []*ecdsa.PrivateKey
	signed int
	fails  error
	wait   chan struct{} // signing waits until it is closed; nil: it does not
}

var errStranger = errors.New("not of this device")

func (d *device) NewKey() ([]byte, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	d.keys = append(d.keys, key)
	return []byte(strconv.Itoa(len(d.keys) - 1)), inside{d, key}, nil
}

func (d *device) OpenKey(wrapped []byte) (crypto.Signer, error) {
	i, err := strconv.Atoi(string(wrapped))
	if err != nil || i >= len(d.keys) {
		return nil, errStranger
	}
	return inside{d, d.keys[i]}, nil
}

type inside struct {
	d   *device
	key *ecdsa.PrivateKey
}

func (i inside) Public() crypto.PublicKey { return i.key.Public() }

func (i inside) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	i.d.mu.Lock()
	wait, fails := i.d.wait, i.d.fails
	i.d.signed++
	i.d.mu.Unlock()
	if wait != nil {
		<-wait
	}
	if fails != nil {
		return nil, fails
	}
	return i.key.Sign(r, digest, o)
}

func leafOf(t *testing.T, r *Root, at time.Time) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := newLeaf(t, at.Add(-10*time.Second), &key.PublicKey)
	l.NotAfter = at.Add(time.Hour)
	der, err := r.SignLeaf(l)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func verify(t *testing.T, r *Root, cert *x509.Certificate, at time.Time) {
	t.Helper()
	between, ok := r.Signed(cert)
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(r.Certificate())
	for _, c := range between {
		middle.AddCert(c)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); !ok || err != nil {
		t.Errorf("signed %v: %v", ok, err)
	}
}

var east = &url.URL{Scheme: "spiffe", Host: "east.dev.example"}

func TestInDevice(t *testing.T) {
	now := time.Now()
	d := &device{}
	r, err := NewIn(d, "test", east, now, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.pem")
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrDevice) || errors.Is(err, ErrDamaged) {
		t.Errorf("without the device: %v", err)
	}
	if _, err := Open(path, &device{}); !errors.Is(err, errStranger) || errors.Is(err, ErrDamaged) {
		t.Errorf("in another device: %v", err)
	}
	if r, err = Open(path, d); err != nil || !r.InDevice() {
		t.Fatal(err)
	}
	before := d.signed
	for range 20 {
		verify(t, r, leafOf(t, r, now), now)
	}
	if d.signed != before+1 {
		t.Errorf("the device signed %d times for 20 certificates, want once", d.signed-before)
	}
	if _, ok := r.Signed(newRoot(t).Certificate()); ok {
		t.Error("it claims what another root signed")
	}
	if c := r.lower.now.Load().cert; !c.IsCA || !c.MaxPathLenZero || len(c.URIs) != 1 || c.URIs[0].String() != east.String() {
		t.Errorf("intermediate: %v %v", c.MaxPathLenZero, c.URIs)
	}

	// It is replaced at half of its life, and what the one before signed still has its
	// chain.
	old := leafOf(t, r, now)
	for _, step := range []struct {
		after time.Duration
		more  int
	}{{IntermediateLife/2 - time.Minute, 0}, {IntermediateLife/2 + time.Minute, 1}, {IntermediateLife, 0}} {
		was := d.signed
		if err := r.Tend(now.Add(step.after)); err != nil || d.signed != was+step.more {
			t.Errorf("after %v: the device signed %d times, want %d: %v", step.after, d.signed-was, step.more, err)
		}
	}
	verify(t, r, old, now)
	later := now.Add(IntermediateLife)
	verify(t, r, leafOf(t, r, later), later)

	// Nobody tended it: the next signature waits for a new one.
	was, later := d.signed, later.Add(30*IntermediateLife)
	verify(t, r, leafOf(t, r, later), later)
	if d.signed != was+1 {
		t.Errorf("the device signed %d times", d.signed-was)
	}
}

// TestSlowDevice: nobody waits for a device while there is an intermediate, and
// together where there is none.
func TestSlowDevice(t *testing.T) {
	now := time.Now()
	d := &device{}
	r, err := NewIn(d, "test", east, now, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	d.wait = make(chan struct{})
	was := d.signed
	var first sync.WaitGroup
	for range 8 {
		first.Go(func() { verify(t, r, leafOf(t, r, now), now) })
	}
	close(d.wait)
	first.Wait()
	if d.signed != was+1 {
		t.Errorf("the device signed %d times for 8 who waited", d.signed-was)
	}

	d.mu.Lock()
	d.wait = make(chan struct{})
	d.mu.Unlock()
	later := now.Add(IntermediateLife * 3 / 4)
	var tended sync.WaitGroup
	tended.Go(func() {
		if err := r.Tend(later); err != nil {
			t.Error(err)
		}
	})
	for range 100 {
		verify(t, r, leafOf(t, r, later), later) // would hang
	}
	close(d.wait)
	tended.Wait()
	d.mu.Lock()
	d.wait, d.fails = nil, errStranger
	d.mu.Unlock()
	if err := r.Tend(later.Add(IntermediateLife * 3 / 4)); !errors.Is(err, errStranger) {
		t.Errorf("a device that fails: %v", err)
	}
	again := later.Add(IntermediateLife * 3 / 4)
	verify(t, r, leafOf(t, r, again), again) // it goes on with what it has
	if _, err := r.Sign(&x509.Certificate{NotBefore: again.Add(IntermediateLife), NotAfter: again.Add(2 * IntermediateLife)}, d.keys[0].Public()); !errors.Is(err, errStranger) {
		t.Errorf("no intermediate, and a device that fails: %v", err)
	}
}
