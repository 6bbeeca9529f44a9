package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

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
