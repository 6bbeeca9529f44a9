package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
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
	if err := n.device.Extend(10, [32]byte{2}); err != nil { // what was read of it is old now
		t.Fatal(err)
	}
	again, err := n.attest(t, n.verifier())
	if err != nil || again.PCRs[10] == c.PCRs[10] {
		t.Errorf("PCR 10 is %x, and was %x: %v", again.PCRs[10], c.PCRs[10], err)
	}
}

// An index that is no counter of ours proves nothing: the node says so, and makes no proof.
func TestForeignCounter(t *testing.T) {
	for name, attributes := range map[string]tpm2.TPMANV{
		"counts, and has other attributes": {OwnerWrite: true, AuthWrite: true, NT: tpm2.TPMNTCounter, OwnerRead: true, AuthRead: true},
		"is no counter":                    {OwnerWrite: true, AuthWrite: true, OwnerRead: true, AuthRead: true, NoDA: true},
	} {
		n := newNode(t)
		public := tpm2.TPMSNVPublic{NVIndex: 0x01b11c01, NameAlg: tpm2.TPMAlgSHA256, Attributes: attributes, DataSize: 8}
		err := n.device.Exclusive(func(tr transport.TPM) error {
			if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(public)}).Execute(tr); err != nil {
				return err
			}
			if attributes.NT != tpm2.TPMNTCounter {
				return nil
			}
			name, err := tpm2.NVName(&public)
			if err != nil {
				return err
			}
			index := tpm2.NamedHandle{Handle: public.NVIndex, Name: *name}
			_, err = tpm2.NVIncrement{AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)}, NVIndex: index}.Execute(tr)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		hello, err := n.keys.Hello(n.feed, n.bootLog)
		if err != nil {
			t.Fatal(err)
		}
		session, err := n.verifier().Begin(time.Now(), hello)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.keys.Prove(hello, session.Challenge(), n.exporter, n.spki(t), n.bootLog); !errors.Is(err, tpm.ErrCounter) {
			t.Errorf("%s: %v, want %v", name, err, tpm.ErrCounter)
		}
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

// An EK kept in the TPM is used instead of being made again.
func TestPersistentEK(t *testing.T) {
	n := newNode(t)
	err := n.device.Exclusive(func(tr transport.TPM) error {
		ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.RSAEKTemplate)}.Execute(tr)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth:             tpm2.TPMRHOwner,
			ObjectHandle:     &tpm2.NamedHandle{Handle: ek.ObjectHandle, Name: ek.Name},
			PersistentHandle: 0x81010001,
		}.Execute(tr)
		_, flushErr := tpm2.FlushContext{FlushHandle: ek.ObjectHandle}.Execute(tr)
		return errors.Join(err, flushErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := n.attest(t, n.verifier()); err != nil {
			t.Fatal(err)
		}
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
