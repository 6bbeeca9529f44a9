package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// MaxSecret is the largest secret Seal takes, in bytes: every TPM seals as much.
const MaxSecret = 128

// ErrSealed means bytes are no sealed secret, or the secret is too large to be one.
var ErrSealed = errors.New("not a secret sealed by a TPM")

// sealTemplate is a secret that lives and dies with this TPM. It is bound to no
// PCR: an update of firmware or kernel must not cost a node its memory.
var sealTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgKeyedHash,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM:     true,
		FixedParent:  true,
		UserWithAuth: true,
		NoDA:         true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{}),
	Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
}

// Seal wraps a secret so that nothing but this TPM opens it again, until it is
// cleared. Whoever may use the TPM may open it: sealing protects a disk that
// was taken out of its machine. On the way to the TPM the secret is encrypted.
// Errors wrap ErrSealed, ErrHierarchyAuth or ErrDevice.
func (d *Device) Seal(secret []byte) ([]byte, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("%w: a secret of %d bytes, at most %d", ErrSealed, len(secret), MaxSecret)
	}
	var out []byte
	srk := &object{build: primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)}
	err := d.Exclusive(func(t transport.TPM) error {
		return srk.use(t, func(parent tpm2.NamedHandle) error {
			rsp, err := tpm2.Create{
				ParentHandle: withoutPassword(parent),
				InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
					Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
				}},
				InPublic: tpm2.New2B(sealTemplate),
			}.Execute(t, tpm2.HMAC(tpm2.TPMAlgSHA256, sha256.Size, tpm2.Salted(parent.Handle, *srk.public), tpm2.AESEncryption(128, tpm2.EncryptIn)))
			if err != nil {
				return err
			}
			out = append(tpm2.Marshal(rsp.OutPublic), tpm2.Marshal(rsp.OutPrivate)...)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out, nil
}

// Unseal opens what Seal made. Errors wrap ErrSealed, ErrOtherTPM (another TPM made
// it, or this one before it was cleared), ErrHierarchyAuth or ErrDevice.
func (d *Device) Unseal(sealed []byte) (secret []byte, err error) {
	b, err := parseSealed(sealed)
	if err != nil {
		return nil, err
	}
	srk := &object{build: primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)}
	item := &object{build: child(srk, b)}
	err = d.Exclusive(func(t transport.TPM) error {
		return item.use(t, func(h tpm2.NamedHandle) error {
			return srk.use(t, func(parent tpm2.NamedHandle) error {
				rsp, err := tpm2.Unseal{ItemHandle: withoutPassword(h)}.Execute(t,
					tpm2.HMAC(tpm2.TPMAlgSHA256, sha256.Size, tpm2.Salted(parent.Handle, *srk.public), tpm2.AESEncryption(128, tpm2.EncryptOut)))
				if err != nil {
					return err
				}
				secret = rsp.OutData.Buffer
				return nil
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return secret, nil
}

// parseSealed reads TPM2B_PUBLIC and TPM2B_PRIVATE of a sealed secret from disk.
func parseSealed(raw []byte) (blob, error) {
	if len(raw) > maxBlob {
		return blob{}, fmt.Errorf("%w: %d bytes", ErrSealed, len(raw))
	}
	public, rest, ok := cut2B(raw)
	private, rest, ok2 := cut2B(rest)
	if !ok || !ok2 || len(rest) != 0 || len(private) == 0 {
		return blob{}, fmt.Errorf("%w: not a TPM2B_PUBLIC and a TPM2B_PRIVATE", ErrSealed)
	}
	area, err := strict[tpm2.TPMTPublic](public)
	if err != nil || area.Type != tpm2.TPMAlgKeyedHash || area.ObjectAttributes != sealTemplate.ObjectAttributes {
		return blob{}, fmt.Errorf("%w: %v", ErrSealed, err)
	}
	return blob{public: tpm2.BytesAs2B[tpm2.TPMTPublic](public), private: tpm2.TPM2BPrivate{Buffer: private}}, nil
}
