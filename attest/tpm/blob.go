package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// blob is a key wrapped by its TPM. In a file: TPM2B_PUBLIC, then TPM2B_PRIVATE,
// and nothing else.
type blob struct {
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
}

const maxBlob = 4 << 10

// newBlob makes a resident key under the storage root key.
func newBlob(t transport.TPM, srk *object) (b blob, err error) {
	err = srk.use(t, func(parent tpm2.NamedHandle) error {
		rsp, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(residentKey)}.Execute(t)
		if err != nil {
			return err
		}
		b = blob{public: rsp.OutPublic, private: rsp.OutPrivate}
		return nil
	})
	return b, err
}

func readBlob(path string) (blob, error) {
	info, err := os.Stat(path)
	if err != nil {
		return blob{}, err
	}
	if info.Size() > maxBlob {
		return blob{}, fmt.Errorf("%w: %s has %d bytes", ErrKeyFile, path, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return blob{}, err
	}
	b, err := parseBlob(raw)
	if err != nil {
		return blob{}, fmt.Errorf("%w: %s: %w", ErrKeyFile, path, err)
	}
	return b, nil
}

func parseBlob(raw []byte) (blob, error) {
	public, rest, ok := cut2B(raw)
	private, rest, ok2 := cut2B(rest)
	if !ok || !ok2 || len(rest) != 0 {
		return blob{}, errors.New("not a TPM2B_PUBLIC and a TPM2B_PRIVATE")
	}
	if _, err := parsePublic(public); err != nil {
		return blob{}, err
	}
	return blob{
		public:  tpm2.BytesAs2B[tpm2.TPMTPublic](public),
		private: tpm2.TPM2BPrivate{Buffer: private},
	}, nil
}

// cut2B splits a TPM2B structure, two bytes of size and as many more, off b.
func cut2B(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], true
}

// write puts the blob on disk so that a crash leaves all of it or nothing.
func (b blob) write(path string) error {
	return durable.Replace(path, b.bytes(), 0o600)
}

func (b blob) bytes() []byte { return append(tpm2.Marshal(b.public), tpm2.Marshal(b.private)...) }
