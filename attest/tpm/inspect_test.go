package tpm_test

import (
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

func TestInspect(t *testing.T) {
	n := newNode(t)
	d := n.device
	if _, err := d.Counters(); err != nil {
		t.Fatal(err)
	}
	in, err := d.Inspect()
	if err != nil {
		t.Fatal(err)
	}
	if in.Maker == "" || in.Firmware == "" || !slices.Equal(in.Banks, []string{"sha256"}) || in.OwnerPassword || in.InLockout || in.Counters.Starts == 0 {
		t.Errorf("%+v", in)
	}
	ek, err := d.EndorsementKey()
	if err != nil || ek.Hash != n.keys.EKHash() || ek.Kind != "RSA-2048" || len(ek.Certificates) != 2 {
		t.Errorf("%+v, %v", ek, err)
	}
	if took, err := d.SigningTime(); err != nil || took <= 0 {
		t.Error(took, err)
	}
	for name, c := range map[string]struct {
		verifier tpm.Verifier
		ok       bool
	}{
		"no roots":  {tpm.Verifier{}, false},
		"foreign":   {tpm.Verifier{Roots: x509.NewCertPool()}, false},
		"allowed":   {tpm.Verifier{AllowEK: map[[32]byte]bool{ek.Hash: true}}, true},
		"certified": {tpm.Verifier{Roots: n.ca.Roots()}, true},
		"denied":    {tpm.Verifier{Roots: n.ca.Roots(), DenyEK: map[[32]byte]bool{ek.Hash: true}}, false},
	} {
		if err := c.verifier.CheckEK(time.Now(), ek); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInspectChangesNothing: a TPM without our counters has none afterwards, and one
// that somebody else filled the index of is told.
func TestInspectChangesNothing(t *testing.T) {
	n := newNode(t)
	if err := n.soft.Clear(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if in, err := n.device.Inspect(); err != nil || in.Counters != (tpm.Counters{}) || in.CounterTaken != nil {
			t.Fatalf("%+v, %v", in, err)
		}
	}
	err := n.device.Exclusive(func(tp transport.TPM) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: 0x01b11c01, NameAlg: tpm2.TPMAlgSHA256, DataSize: 4,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, AuthWrite: true},
		})}.Execute(tp)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if in, err := n.device.Inspect(); err != nil || !errors.Is(in.CounterTaken, tpm.ErrCounter) {
		t.Fatalf("%+v, %v", in, err)
	}
}

func TestInspectStates(t *testing.T) {
	inspect := func(n *node) tpm.Inspection {
		t.Helper()
		in, err := n.device.Inspect()
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	do := func(n *node, fn func(transport.TPM) error) {
		t.Helper()
		if err := n.device.Exclusive(fn); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("passwords", func(t *testing.T) {
		n := newNode(t)
		for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement, tpm2.TPMRHLockout} {
			do(n, func(tp transport.TPM) error {
				_, err := tpm2.HierarchyChangeAuth{
					AuthHandle: tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
				}.Execute(tp)
				return err
			})
		}
		if in := inspect(n); !in.OwnerPassword || !in.EndorsementPassword || !in.LockoutPassword {
			t.Errorf("%+v", in)
		}
		if _, err := n.device.SigningTime(); err != nil {
			t.Errorf("the null hierarchy needs no password: %v", err)
		}
		if _, err := tpm.OpenKeys(n.device, t.TempDir()); !errors.Is(err, tpm.ErrHierarchyAuth) {
			t.Errorf("keys under a password: %v", err)
		}
	})
	t.Run("lockout", func(t *testing.T) {
		n := newNode(t)
		const index = tpm2.TPMHandle(0x01b11c77)
		do(n, func(tp transport.TPM) error {
			_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, Auth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
				PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
					Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true}})}.Execute(tp)
			return err
		})
		for in := inspect(n); !in.InLockout; in = inspect(n) {
			if in.Failures > in.MaxFailures || in.MaxFailures == 0 || in.Forgives <= 0 {
				t.Fatalf("%+v", in)
			}
			do(n, func(tp transport.TPM) error {
				public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tp)
				if err != nil {
					return err
				}
				handle := tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth([]byte("guess"))}
				if _, err := (tpm2.NVRead{AuthHandle: handle, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName}, Size: 8}).Execute(tp); err == nil {
					return errors.New("a guess was right")
				}
				return nil
			})
		}
	})
	t.Run("no EK certificate", func(t *testing.T) {
		n := newNode(t)
		do(n, func(tp transport.TPM) error {
			const index = tpm2.TPMHandle(0x01c00002)
			public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tp)
			if err != nil {
				return err
			}
			_, err = tpm2.NVUndefineSpace{
				AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName},
			}.Execute(tp)
			return err
		})
		ek, err := n.device.EndorsementKey()
		if err != nil || len(ek.Certificates) != 0 || ek.Kind != "P-256" {
			t.Errorf("%+v, %v", ek, err)
		}
		if err := (&tpm.Verifier{Roots: n.ca.Roots()}).CheckEK(time.Now(), ek); err == nil {
			t.Error("an EK without a certificate is accepted")
		}
	})
}
