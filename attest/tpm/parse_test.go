package tpm

import (
	"bytes"
	"crypto/elliptic"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// FuzzAttest gives the verifier structures that pass the signature check, which a
// hostile node can make with a software AK of its own.
func FuzzAttest(f *testing.F) {
	forged := newForger(f)
	a := forged.honest(f, forged.honestHello(f), Challenge{PCRs: quotedPCRs}, [32]byte{})
	for _, s := range a.all() {
		f.Add(tpm2.Marshal(*s))
	}
	names := []string{"quote", "node-key", "trail-key", "starts", "epoch"}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range names {
			if _, err := forged.run(t, lie{raw: only(name, func([]byte) []byte { return b })}); err == nil {
				t.Errorf("%s: accepted %x", name, b)
			}
		}
	})
}

func FuzzPublic(f *testing.F) {
	f.Add(public(f, attestationKey, newKey(f, elliptic.P256()).Public()))
	f.Add(public(f, tpm2.RSAEKTemplate, rsaKey().Public()))
	f.Add(public(f, ekP384, newKey(f, elliptic.P384()).Public()))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePublic(b)
		if err != nil {
			return
		}
		if !bytes.Equal(tpm2.Marshal(p), b) {
			t.Errorf("%x parses but re-encodes otherwise", b)
		}
		if _, err := publicPKIX(p); err != nil {
			return
		}
		a := appraisal{ekPublic: p, akPublic: p}
		_, _ = a.ekAttributes(), a.akAttributes()
	})
}

func FuzzBlob(f *testing.F) {
	pub := public(f, residentKey, newKey(f, elliptic.P256()).Public())
	f.Add(append(append([]byte{0, byte(len(pub))}, pub...), 0, 1, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseBlob(b)
		if err != nil {
			return
		}
		if again := append(tpm2.Marshal(got.public), tpm2.Marshal(got.private)...); !bytes.Equal(again, b) {
			t.Errorf("%x parses but re-encodes as %x", b, again)
		}
	})
}
