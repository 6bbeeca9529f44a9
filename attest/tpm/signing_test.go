package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// TestKeyForOthers: a key made in the TPM comes back from its wrapped form, in this
// TPM only, as long as that is not cleared, and with the attributes it was made with.
func TestKeyForOthers(t *testing.T) {
	n, other := newNode(t), newNode(t)
	wrapped, key, err := n.device.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	back, err := n.device.OpenKey(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := back.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("brought back: %v", err)
	}
	if _, err := other.device.OpenKey(wrapped); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("in another TPM: %v", err)
	}
	for _, junk := range [][]byte{nil, []byte("junk"), wrapped[:len(wrapped)-1], append(bytes.Clone(wrapped), 0), make([]byte, 1<<20)} {
		if _, err := n.device.OpenKey(junk); !errors.Is(err, tpm.ErrKeyFile) {
			t.Errorf("%d bytes of junk: %v", len(junk), err)
		}
	}

	// Attributes in the file that are not those of the key: fixedTPM is bit 1 of the
	// 32 that follow size, type and name algorithm.
	movable := bytes.Clone(wrapped)
	movable[2+2+2+3] &^= 1 << 1
	if _, err := n.device.OpenKey(movable); err == nil {
		t.Error("the file calls the key movable, and it was taken")
	}
	// A key that really is movable.
	if _, err := n.device.OpenKey(n.movableKey(t)); !errors.Is(err, tpm.ErrKeyFile) {
		t.Errorf("a key that may leave the TPM: %v", err)
	}

	err = n.device.Exclusive(func(t transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(t)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.device.OpenKey(wrapped); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("after the TPM was cleared: %v", err)
	}
	if _, err := back.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("the open key, after the TPM was cleared: %v", err)
	}
}

// movableKey makes a key that another TPM could be given, wrapped as ours are.
func (n *node) movableKey(t *testing.T) (wrapped []byte) {
	t.Helper()
	err := n.device.Exclusive(func(tp transport.TPM) error {
		srk, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tp)
		if err != nil {
			return err
		}
		defer tpm2.FlushContext{FlushHandle: srk.ObjectHandle}.Execute(tp)
		template := tpm.ResidentTemplate()
		template.ObjectAttributes.FixedTPM, template.ObjectAttributes.FixedParent = false, false
		rsp, err := tpm2.Create{ParentHandle: tpm2.NamedHandle{Handle: srk.ObjectHandle, Name: srk.Name}, InPublic: tpm2.New2B(template)}.Execute(tp)
		if err != nil {
			return err
		}
		wrapped = append(tpm2.Marshal(rsp.OutPublic), tpm2.Marshal(rsp.OutPrivate)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}
