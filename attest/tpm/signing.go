package tpm

import (
	"crypto"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// NewKey makes a P-256 key in the TPM, for more than this node: an issuer's root. It
// signs SHA-256 digests with ECDSA, never leaves the TPM, and ends when that is
// cleared. wrapped is of no use outside this TPM. Errors are those of the device.
func (d *Device) NewKey() (wrapped []byte, key crypto.Signer, err error) {
	srk := &object{build: primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)}
	var b blob
	if err := d.Exclusive(func(t transport.TPM) (err error) {
		b, err = newBlob(t, srk)
		return err
	}); err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if key, err = d.openBlob(srk, b); err != nil {
		return nil, nil, err
	}
	return b.bytes(), key, nil
}

// OpenKey brings back what NewKey made. Errors are ErrOtherTPM, ErrKeyFile and
// those of the device.
func (d *Device) OpenKey(wrapped []byte) (crypto.Signer, error) {
	if len(wrapped) > maxBlob {
		return nil, fmt.Errorf("%w: %d bytes", ErrKeyFile, len(wrapped))
	}
	b, err := parseBlob(wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	return d.openBlob(&object{build: primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)}, b)
}

// openBlob loads a resident key once, which shows that it belongs to this TPM, and
// that its attributes are those it has there: it takes none that could have been made
// elsewhere, or could leave.
func (d *Device) openBlob(srk *object, b blob) (*signer, error) {
	s := &signer{device: d, object: &object{build: child(srk, b)}}
	err := d.Exclusive(func(t transport.TPM) error {
		return s.object.use(t, func(tpm2.NamedHandle) error { return nil })
	})
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	if s.public, _, err = signingKey(s.object.public, false); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	return s, nil
}
