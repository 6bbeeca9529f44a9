package tpm

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func FuzzParseSealed(f *testing.F) {
	f.Add(append(tpm2.Marshal(tpm2.New2B(sealTemplate)), 0, 1, 9))
	f.Add([]byte{0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseSealed(raw)
		if err == nil && !bytes.Equal(append(tpm2.Marshal(b.public), tpm2.Marshal(b.private)...), raw) {
			t.Error("read something else than what was given")
		}
	})
}
