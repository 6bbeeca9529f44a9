package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var (
	// ErrOtherTPM means the key files were made by another TPM, or by this one
	// before it was cleared. Nobody can use them any more: set them aside,
	// and the node gets new keys and enrols again.
	ErrOtherTPM = errors.New("key files do not belong to this TPM")

	// ErrKeyFile means a key file is damaged.
	ErrKeyFile = errors.New("TPM key file is damaged")

	// ErrDigest means a signer was given something else than a SHA-256 digest; the
	// keys sign nothing else.
	ErrDigest = errors.New("TPM keys sign SHA-256 digests only")
)

// The files of the resident keys, wrapped by the TPM they live in.
const (
	NodeKeyFile  = "node.key"
	TrailKeyFile = "trail.key"
)

// Keys are the keys of one node in its TPM. They may be used concurrently; uses
// queue for the Device.
type Keys struct {
	device      *Device
	ek          *object
	ekKind      ekKind
	ekPublic    *tpm2.TPMTPublic
	ekHash      [32]byte
	ekCerts     [][]byte
	ak          *object
	node, trail *signer
	pcrs        map[int][32]byte // as they were read last; guarded by the device
}

// OpenKeys opens the node's keys: the AK and, from the files node.key and
// trail.key in dir, the resident keys. On first use it makes the files, of mode
// 0600 and useless outside this TPM. Errors are ErrOtherTPM, ErrKeyFile,
// ErrHierarchyAuth, ErrDevice and those of the file system.
func OpenKeys(d *Device, dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	srk := &object{build: primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)}
	k := &Keys{device: d, ak: &object{build: primary(tpm2.TPMRHEndorsement, attestationKey)}}
	var err error
	if k.node, err = openSigner(d, srk, filepath.Join(dir, NodeKeyFile)); err != nil {
		return nil, err
	}
	if k.trail, err = openSigner(d, srk, filepath.Join(dir, TrailKeyFile)); err != nil {
		return nil, err
	}
	err = d.Exclusive(func(t transport.TPM) error {
		if err := k.ak.use(t, func(tpm2.NamedHandle) error { return nil }); err != nil {
			return fmt.Errorf("make attestation key: %w", err)
		}
		return k.openEK(t)
	})
	if err != nil {
		return nil, err
	}
	pkix, err := publicPKIX(k.ekPublic)
	if err != nil {
		return nil, err
	}
	k.ekHash = sha256.Sum256(pkix)
	return k, nil
}

// openEK finds the endorsement key its maker certified. Making an RSA key takes
// seconds on real TPMs, so with a certificate at hand the public area is put
// together from it and the key is made when a credential is to be opened.
func (k *Keys) openEK(t transport.TPM) error {
	for _, kind := range ekKinds {
		cert, err := readCertificate(t, kind.certificate)
		if errors.Is(err, errNoIndex) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read EK certificate: %w", err)
		}
		public, err := withKeyOf(kind.template, cert)
		if err != nil {
			continue // a certificate we cannot use does not hide the next one
		}
		name, err := tpm2.ObjectName(public)
		if err != nil {
			return err
		}
		k.ekKind, k.ekPublic = kind, public
		k.ek = &object{build: endorsement(kind.template, *name), public: public, name: *name}
		k.ekCerts = [][]byte{cert}
		return k.readChain(t)
	}
	k.ekKind = ekKinds[1] // no certificate: P-256 is the quickest
	k.ek = &object{build: primary(tpm2.TPMRHEndorsement, k.ekKind.template)}
	return k.ek.use(t, func(tpm2.NamedHandle) error {
		k.ekPublic = k.ek.public
		return nil
	})
}

// readChain adds the certificates above that of the EK, if the maker put them in.
func (k *Keys) readChain(t transport.TPM) error {
	for i := range tpm2.TPMHandle(ekChainMost) {
		der, err := readCertificate(t, ekChainFirst+i)
		if errors.Is(err, errNoIndex) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read EK certificate chain: %w", err)
		}
		k.ekCerts = append(k.ekCerts, der)
	}
	return nil
}

// withKeyOf is the public area of the primary that template stands for, if cert
// is of that key.
func withKeyOf(template tpm2.TPMTPublic, cert []byte) (*tpm2.TPMTPublic, error) {
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, err
	}
	public := template
	if err := setKey(&public, parsed.PublicKey); err != nil {
		return nil, err
	}
	return &public, nil
}

// Node is the key behind the node's SVIDs. It signs SHA-256 digests with ECDSA.
func (k *Keys) Node() crypto.Signer { return k.node }

// Trail is the key that signs trail checkpoints. It signs SHA-256 digests with ECDSA.
func (k *Keys) Trail() crypto.Signer { return k.trail }

// EKHash is the SHA-256 hash of the EK's public key as PKIX (RFC 5280 §4.1): the
// name of the machine.
func (k *Keys) EKHash() [32]byte { return k.ekHash }

// signer is a resident key.
type signer struct {
	device *Device
	object *object
	public *ecdsa.PublicKey
}

var _ crypto.Signer = (*signer)(nil)

func openSigner(d *Device, srk *object, path string) (*signer, error) {
	b, err := readBlob(path)
	fresh := errors.Is(err, os.ErrNotExist)
	if err != nil && !fresh {
		return nil, err
	}
	if fresh {
		err = d.Exclusive(func(t transport.TPM) error {
			b, err = newBlob(t, srk)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("make key %s: %w", path, err)
		}
	}
	s, err := d.openBlob(srk, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if fresh {
		return s, b.write(path)
	}
	return s, nil
}

// Public returns an *ecdsa.PublicKey on P-256.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign returns an ASN.1 ECDSA signature of a SHA-256 digest. The signature is
// verified before it leaves: a TPM whose slots somebody else rearranged, or that
// computes wrongly, must not sign in our name.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, ErrDigest
	}
	var r, v *big.Int
	err := s.device.Exclusive(func(t transport.TPM) error {
		return s.object.use(t, func(key tpm2.NamedHandle) error {
			rsp, err := tpm2.Sign{
				KeyHandle:  key,
				Digest:     tpm2.TPM2BDigest{Buffer: digest},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
			}.Execute(t)
			if err != nil {
				return err
			}
			r, v, err = ecdsaSignature(&rsp.Signature)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !ecdsa.Verify(s.public, digest, r, v) {
		return nil, fmt.Errorf("%w %s: returned a wrong signature", ErrDevice, s.device.path)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{r, v})
}

func ecdsaSignature(sig *tpm2.TPMTSignature) (r, s *big.Int, err error) {
	ecc, err := sig.Signature.ECDSA()
	if err != nil {
		return nil, nil, err
	}
	return new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer), nil
}

// readCertificate reads a certificate, without the padding some makers put after it.
func readCertificate(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	der, err := readNV(t, index)
	if err != nil {
		return nil, err
	}
	var raw asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &raw); err == nil {
		der = der[:len(der)-len(rest)]
	}
	return der, nil
}
