package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// node is one software node: a TPM, its keys, its boot log.
type node struct {
	ca       *maker.CA
	soft     *maker.SoftTPM
	device   *tpm.Device
	keys     *tpm.Keys
	feed     []byte
	bootLog  []byte
	exporter []byte
}

func newNode(t testing.TB, opts ...maker.Option) *node {
	t.Helper()
	ca, err := maker.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "bw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{ca: ca, exporter: make([]byte, 32)}
	n.soft, err = ca.Manufacture(t.Context(), dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.soft.Stop() })
	n.open(t)
	if n.bootLog, err = os.ReadFile(n.soft.BootLog()); err != nil {
		t.Fatal(err)
	}
	feed, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if n.feed, err = x509.MarshalPKIXPublicKey(feed.Public()); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) open(t testing.TB) {
	t.Helper()
	var err error
	if n.device, err = tpm.Open(n.soft.Path()); err != nil {
		t.Fatal(err)
	}
	device := n.device
	t.Cleanup(func() { device.Close() })
	if n.keys, err = tpm.OpenKeys(n.device, n.keyDir()); err != nil {
		t.Fatal(err)
	}
}

func (n *node) keyDir() string { return filepath.Join(n.soft.Dir(), "keys") }

func (n *node) spki(t testing.TB) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(n.keys.Node().Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func (n *node) verifier() *tpm.Verifier { return &tpm.Verifier{Roots: n.ca.Roots()} }

func (n *node) attest(t testing.TB, v *tpm.Verifier) (tpm.Claims, error) {
	t.Helper()
	hello, err := n.keys.Hello(n.feed, n.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	session, err := v.Begin(time.Now(), hello)
	if err != nil {
		return tpm.Claims{}, err
	}
	proof, err := n.keys.Prove(hello, session.Challenge(), n.exporter, n.spki(t), n.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	return session.Finish(time.Now(), proof, n.exporter, n.spki(t))
}

func wantCheck(t *testing.T, err error, rule string) {
	t.Helper()
	var check *tpm.CheckError
	if !errors.As(err, &check) || !errors.Is(err, tpm.ErrRefused) {
		t.Fatalf("got %v, want a refusal by %s", err, rule)
	}
	if check.Check != rule {
		t.Errorf("refused by %s (%s), want %s", check.Check, check.Detail, rule)
	}
}

func TestAttest(t *testing.T) {
	n := newNode(t, maker.Booting(eventlog.Boot{CommandLine: "quiet"}))
	starts, err := n.device.BumpStarts()
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.attest(t, n.verifier())
	if err != nil {
		t.Fatal(err)
	}
	if c.EKHash != n.keys.EKHash() || !c.EKChain || c.EKMaker != "id:424C574B" || c.EKModel != "swtpm" || c.EKFirmware == "" || c.EKSerial == "" {
		t.Errorf("EK claims: %x %v %q %q %q %q", c.EKHash, c.EKChain, c.EKMaker, c.EKModel, c.EKFirmware, c.EKSerial)
	}
	if !c.NodeKey.Equal(n.keys.Node().Public()) || !c.TrailKey.Equal(n.keys.Trail().Public()) {
		t.Error("claims name other keys")
	}
	if c.Counters.Starts != starts || c.Counters.Epoch == 0 {
		t.Errorf("counters %+v, want starts %d and an epoch", c.Counters, starts)
	}
	// Small numbers: an AK outside the endorsement hierarchy would show obfuscated ones.
	if c.ResetCount == 0 || c.ResetCount > 100 {
		t.Errorf("reset count %d is not that of a new TPM", c.ResetCount)
	}
	if len(c.Boot.CommandLines) != 1 || c.Boot.CommandLines[0] != "/vmlinuz quiet" {
		t.Errorf("command lines %q (%s)", c.Boot.CommandLines, c.Boot.Untrusted.CommandReason)
	}

	// The same TPM attests again after a power cycle, with the same keys and more resets.
	node, trail := n.keys.Node().Public(), n.keys.Trail().Public()
	if err := n.soft.Stop(); err != nil {
		t.Fatal(err)
	}
	if n.soft, err = n.ca.Manufacture(t.Context(), n.soft.Dir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.soft.Stop() })
	again, err := n.attest(t, n.verifier()) // the device and the keys outlive the reset
	if err != nil {
		t.Fatalf("after power cycle: %v", err)
	}
	if !again.NodeKey.Equal(node) || !again.TrailKey.Equal(trail) || again.Counters != c.Counters {
		t.Error("after power cycle: other keys or counters")
	}
	if again.ResetCount <= c.ResetCount {
		t.Errorf("reset count %d after %d", again.ResetCount, c.ResetCount)
	}
}

func TestTamperedBoot(t *testing.T) {
	n := newNode(t)
	if err := n.device.Extend(8, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	_, err := n.attest(t, n.verifier())
	wantCheck(t, err, "boot-log-replay")
	if !errors.Is(err, eventlog.ErrReplay) {
		t.Errorf("%v does not wrap %v", err, eventlog.ErrReplay)
	}
}

func TestRuntimePCR(t *testing.T) {
	n := newNode(t)
	if err := n.device.Extend(10, [32]byte{1}); err != nil { // as IMA does
		t.Fatal(err)
	}
	c, err := n.attest(t, n.verifier())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Boot.Unexplained) != 1 || c.Boot.Unexplained[0] != 10 {
		t.Errorf("unexplained PCRs %v, want [10]", c.Boot.Unexplained)
	}
}

func TestCredentialForAnotherTPM(t *testing.T) {
	a, b := newNode(t), newNode(t)
	hello, err := b.keys.Hello(b.feed, b.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	session, err := b.verifier().Begin(time.Now(), hello)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.keys.Prove(hello, session.Challenge(), a.exporter, a.spki(t), a.bootLog)
	if !errors.Is(err, tpm.ErrActivation) {
		t.Errorf("got %v, want %v", err, tpm.ErrActivation)
	}
}

// The right TPM, and a credential that names another key than its AK.
func TestCredentialForAnotherAK(t *testing.T) {
	n := newNode(t)
	hello, err := n.keys.Hello(n.feed, n.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	var parts tpm.Hello
	if err := statement.Unmarshal(hello, &parts); err != nil {
		t.Fatal(err)
	}
	ek, err := tpm2.Unmarshal[tpm2.TPMTPublic](parts.EKPub)
	if err != nil {
		t.Fatal(err)
	}
	wrap, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		t.Fatal(err)
	}
	name := sha256.Sum256(parts.NodePub)
	challenge := tpm.Challenge{PCRs: []uint8{0}}
	challenge.Credential, challenge.Secret, err = tpm2.CreateCredential(rand.Reader, wrap, append([]byte{0, 0x0b}, name[:]...), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := statement.Marshal(challenge)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = n.keys.Prove(hello, raw, n.exporter, n.spki(t), n.bootLog); !errors.Is(err, tpm.ErrActivation) {
		t.Errorf("got %v, want %v", err, tpm.ErrActivation)
	}
}

func TestHostileChallenge(t *testing.T) {
	n := newNode(t)
	hello, err := n.keys.Hello(n.feed, n.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	session, err := n.verifier().Begin(time.Now(), hello)
	if err != nil {
		t.Fatal(err)
	}
	good := session.Challenge()
	for name, try := range map[string]func() error{
		"bytes": func() error { _, err := n.keys.Prove(hello, good[:40], n.exporter, n.spki(t), n.bootLog); return err },
		"oversized": func() error {
			_, err := n.keys.Prove(hello, make([]byte, tpm.MaxChallenge+1), n.exporter, n.spki(t), n.bootLog)
			return err
		},
		"exporter": func() error { _, err := n.keys.Prove(hello, good, nil, n.spki(t), n.bootLog); return err },
		"CSR key":  func() error { _, err := n.keys.Prove(hello, good, n.exporter, n.feed, n.bootLog); return err },
	} {
		if err := try(); !errors.Is(err, tpm.ErrChallenge) {
			t.Errorf("%s: got %v, want %v", name, err, tpm.ErrChallenge)
		}
	}
	if _, err := n.keys.Hello(n.feed, make([]byte, eventlog.MaxSize+1)); !errors.Is(err, eventlog.ErrTooLarge) {
		t.Errorf("huge boot log: %v", err)
	}
}

func TestSigner(t *testing.T) {
	n := newNode(t)
	digest := sha256.Sum256([]byte("message"))
	for name, s := range map[string]crypto.Signer{"node": n.keys.Node(), "trail": n.keys.Trail()} {
		sig, err := s.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Errorf("%s: signature does not verify", name)
		}
		long := sha512.Sum384([]byte("message"))
		if _, err := s.Sign(nil, long[:], crypto.SHA384); !errors.Is(err, tpm.ErrDigest) {
			t.Errorf("%s: SHA-384: %v, want %v", name, err, tpm.ErrDigest)
		}
	}
}

func TestOtherTPM(t *testing.T) {
	a, b := newNode(t), newNode(t)
	if _, err := tpm.OpenKeys(b.device, a.keyDir()); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("keys of another TPM: %v, want %v", err, tpm.ErrOtherTPM)
	}
	if err := os.WriteFile(filepath.Join(a.keyDir(), "node.key"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.OpenKeys(a.device, a.keyDir()); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("damaged key file: %v, want %v", err, tpm.ErrKeyFile)
	}
}

func TestCounters(t *testing.T) {
	n := newNode(t)
	first, err := n.device.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if first.Starts == 0 || first.Epoch == 0 {
		t.Errorf("new counters %+v hold no value", first)
	}
	if got, err := n.device.BumpStarts(); err != nil || got != first.Starts+1 {
		t.Errorf("starts %d, %v; want %d", got, err, first.Starts+1)
	}
	if got, err := n.device.BumpEpoch(); err != nil || got <= first.Epoch {
		t.Errorf("epoch %d, %v; want more than %d", got, err, first.Epoch)
	}
	if err := n.device.Extend(24, [32]byte{}); err == nil {
		t.Error("PCR 24 was extended")
	}
}

// Many users, two devices, one TPM of three slots, and a process that died and left
// its slots full.
func TestThreeSlots(t *testing.T) {
	n := newNode(t)
	second, err := tpm.Open(n.soft.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	other, err := tpm.OpenKeys(second, n.keyDir())
	if err != nil {
		t.Fatal(err)
	}
	err = n.device.Exclusive(func(tr transport.TPM) error { // and never flushes
		for range 3 {
			if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(tr); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	var users sync.WaitGroup
	for range 3 {
		for _, k := range []*tpm.Keys{n.keys, other} {
			users.Go(func() {
				if _, err := k.Node().Sign(nil, digest[:], crypto.SHA256); err != nil {
					t.Error(err)
				}
			})
			users.Go(func() {
				if _, err := k.Trail().Sign(nil, digest[:], crypto.SHA256); err != nil {
					t.Error(err)
				}
			})
		}
		users.Go(func() {
			if _, err := n.attest(t, n.verifier()); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	err = n.device.Exclusive(func(tr transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 8}.Execute(tr)
		if err != nil {
			return err
		}
		left, err := rsp.CapabilityData.Data.Handles()
		if err == nil && len(left.Handle) != 0 {
			t.Errorf("%d slots are still taken", len(left.Handle))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "tpm", "/dev/does-not-exist", "/dev/null", file, "unix:" + file, "unix:" + dir + "/none", "tcp:127.0.0.1:1"} {
		if d, err := tpm.Open(path); !errors.Is(err, tpm.ErrDevice) {
			t.Errorf("%q: %v, %v; want %v", path, d, err, tpm.ErrDevice)
		}
	}
	n := newNode(t)
	if err := n.device.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.device.PCRs(); !errors.Is(err, tpm.ErrDevice) {
		t.Errorf("closed device: %v, want %v", err, tpm.ErrDevice)
	}
	if err := n.device.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func BenchmarkSign(b *testing.B) {
	n := newNode(b)
	digest := sha256.Sum256([]byte("message"))
	for b.Loop() {
		if _, err := n.keys.Node().Sign(nil, digest[:], crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAttest(b *testing.B) {
	n := newNode(b)
	for b.Loop() {
		if _, err := n.attest(b, n.verifier()); err != nil {
			b.Fatal(err)
		}
	}
}
