package tpm_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

func TestSeal(t *testing.T) {
	n, other := newNode(t), newNode(t)
	secret := bytes.Repeat([]byte{7}, 32)
	sealed, err := n.device.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret) {
		t.Error("the secret shows")
	}
	if err := n.device.Extend(8, [32]byte{1}); err != nil { // an update of what boots costs nothing
		t.Fatal(err)
	}
	if got, err := n.device.Unseal(sealed); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := other.device.Unseal(sealed); !errors.Is(err, tpm.ErrOtherTPM) {
		t.Errorf("another TPM: %v", err)
	}
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-1] ^= 1
	if _, err := n.device.Unseal(damaged); err == nil {
		t.Error("a damaged secret is opened")
	}
	for _, raw := range [][]byte{nil, sealed[1:], sealed[:len(sealed)-1], append(bytes.Clone(sealed), 0), make([]byte, 8<<10)} {
		if _, err := n.device.Unseal(raw); !errors.Is(err, tpm.ErrSealed) {
			t.Errorf("%d bytes: %v", len(raw), err)
		}
	}
	for _, size := range []int{0, tpm.MaxSecret + 1} {
		if _, err := n.device.Seal(make([]byte, size)); !errors.Is(err, tpm.ErrSealed) {
			t.Errorf("sealing %d bytes: %v", size, err)
		}
	}
}
