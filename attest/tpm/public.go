package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// maxPublic is the largest public area looked at, in bytes; RSA-4096 has 600.
const maxPublic = 1 << 10

// parsePublic reads a TPMT_PUBLIC of an RSA or elliptic curve key from outside
// and refuses any spelling but the one the TPM would hash.
func parsePublic(b []byte) (*tpm2.TPMTPublic, error) {
	if len(b) < 2 || len(b) > maxPublic {
		return nil, fmt.Errorf("public area of %d bytes", len(b))
	}
	// The unmarshaller leaves unions of other types empty and could not write them again.
	switch alg := tpm2.TPMAlgID(binary.BigEndian.Uint16(b)); alg {
	case tpm2.TPMAlgRSA, tpm2.TPMAlgECC:
	default:
		return nil, fmt.Errorf("public area of type 0x%04x, want RSA or ECC", uint16(alg))
	}
	return strict[tpm2.TPMTPublic](b)
}

// strict reads a TPM structure from outside and refuses any spelling but the one the
// TPM writes. go-tpm was made to read what a TPM says, and may panic on what it would
// never say; here that is an error like others.
func strict[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](b []byte) (v *T, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("%v", r)
		}
	}()
	if v, err = tpm2.Unmarshal[T, P](b); err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(*v), b) {
		return nil, errors.New("structure is not in its one spelling")
	}
	return v, nil
}

// p256 returns the key of a public area that is on P-256.
func p256(public *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	key, err := publicKey(public)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("key is not on P-256")
	}
	return ec, nil
}

// publicKey returns the key of a public area: RSA of 2048 to 4096 bits, or a
// point that is on P-256 or P-384.
func publicKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 || key.E != 65537 {
			return nil, fmt.Errorf("RSA key of %d bits with exponent %d", bits, key.E)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("key on curve %s", key.Curve.Params().Name)
		}
		if _, err := key.ECDH(); err != nil {
			return nil, err
		}
	}
	return key, nil
}

func publicPKIX(public *tpm2.TPMTPublic) ([]byte, error) {
	key, err := publicKey(public)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key)
}

// setKey puts key in the place the TPM puts it when it makes one from a template.
func setKey(public *tpm2.TPMTPublic, key crypto.PublicKey) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if public.Type != tpm2.TPMAlgRSA || key.N.BitLen() != 2048 {
			break
		}
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
		return nil
	case *ecdsa.PublicKey:
		params, err := public.Parameters.ECCDetail()
		if err != nil || key.Curve == elliptic.P256() != (params.CurveID == tpm2.TPMECCNistP256) ||
			key.Curve == elliptic.P384() != (params.CurveID == tpm2.TPMECCNistP384) {
			break
		}
		point, err := key.Bytes()
		if err != nil {
			return err
		}
		half := (len(point) - 1) / 2 // 4, X, Y (SEC 1 §2.3.3)
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+half]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[1+half:]},
		})
		return nil
	}
	return fmt.Errorf("certificate is of another kind of key (%T)", key)
}
