package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

const maxEKCerts = 1 + ekChainMost

func (a *appraisal) parseHello() (err error) {
	if err := decode(a.helloBytes, MaxHello, &a.hello); err != nil {
		return err
	}
	if len(a.hello.EKCerts) > maxEKCerts {
		return fmt.Errorf("%d EK certificates, at most %d", len(a.hello.EKCerts), maxEKCerts)
	}
	for _, key := range []struct {
		name string
		from []byte
		to   **tpm2.TPMTPublic
	}{
		{"EK", a.hello.EKPub, &a.ekPublic},
		{"AK", a.hello.AKPub, &a.akPublic},
		{"node key", a.hello.NodePub, &a.nodePub},
		{"trail key", a.hello.TrailPub, &a.trailPub},
	} {
		if key.to == &a.nodePub && !a.resident() {
			if len(key.from) > 0 {
				return errors.New("a node key in the TPM and one in memory")
			}
			continue
		}
		if *key.to, err = parsePublic(key.from); err != nil {
			return fmt.Errorf("%s: %w", key.name, err)
		}
	}
	pkix, err := publicPKIX(a.ekPublic)
	if err != nil {
		return fmt.Errorf("EK: %w", err)
	}
	a.ekHash = sha256.Sum256(pkix)
	return nil
}

func (a *appraisal) ekNotDenied() error {
	if a.verifier.DenyEK[a.ekHash] {
		return fmt.Errorf("EK %x is on the deny list", a.ekHash)
	}
	return nil
}

// ekAttributes wants a storage key that lives in one TPM and was born there, and
// that hides credentials with AES. Without it anybody could call a key an EK that
// decrypts whatever it is given.
func (a *appraisal) ekAttributes() (err error) {
	attrs := a.ekPublic.ObjectAttributes
	if !attrs.FixedTPM || !attrs.FixedParent || !attrs.SensitiveDataOrigin || !attrs.Restricted || !attrs.Decrypt || attrs.SignEncrypt {
		return errors.New("EK is not a restricted decryption key that is fixed to its TPM")
	}
	if alg := a.ekPublic.NameAlg; alg != tpm2.TPMAlgSHA256 && alg != tpm2.TPMAlgSHA384 {
		return fmt.Errorf("EK is named by hash algorithm 0x%04x, want SHA-256 or SHA-384", uint16(alg))
	}
	if a.ekWrap, err = tpm2.ImportEncapsulationKey(a.ekPublic); err != nil {
		return err
	}
	symmetric := a.ekWrap.SymmetricParameters()
	if symmetric == nil || symmetric.Algorithm != tpm2.TPMAlgAES {
		return errors.New("EK does not protect credentials with AES")
	}
	bits, err := symmetric.KeyBits.AES()
	if err != nil {
		return err
	}
	mode, err := symmetric.Mode.AES()
	if err != nil {
		return err
	}
	if *bits != 128 && *bits != 256 || *mode != tpm2.TPMAlgCFB {
		return fmt.Errorf("EK protects credentials with AES-%d in mode 0x%04x, want 128 or 256 in CFB", *bits, uint16(*mode))
	}
	return nil
}

// The extended key usage of EK certificates, and the attributes that name a TPM in
// them (TCG EK Credential Profile 2.6 §3.2).
var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

func (a *appraisal) ekChain() error {
	cert, err := a.verifyEKChain()
	if err == nil {
		a.ekCert, a.ekName = cert, nameOf(cert)
		return nil
	}
	if a.verifier.AllowEK[a.ekHash] {
		return nil
	}
	return fmt.Errorf("EK %x is not on the allow list: %w", a.ekHash, err)
}

func (a *appraisal) verifyEKChain() (*x509.Certificate, error) {
	if len(a.hello.EKCerts) == 0 {
		return nil, errors.New("EK has no certificate")
	}
	if a.verifier.Roots == nil { // Verify would take the system's
		return nil, errors.New("no TPM maker's root is configured")
	}
	cert, err := x509.ParseCertificate(a.hello.EKCerts[0])
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	if a.verifier.Intermediates != nil {
		intermediates = a.verifier.Intermediates.Clone()
	}
	for _, der := range a.hello.EKCerts[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		intermediates.AddCert(c)
	}
	if cert.IsCA {
		return nil, errors.New("EK certificate is one of an authority")
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return nil, errors.New("certificate is not for an endorsement key (2.23.133.8.1)")
	}
	// crypto/x509 cannot use the directory name in the subject alternative name,
	// which the profile makes critical; nameOf reads it.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	_, err = cert.Verify(x509.VerifyOptions{
		Roots:         a.verifier.Roots,
		Intermediates: intermediates,
		CurrentTime:   a.began,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // the EK's own usage is checked above
	})
	if err != nil {
		return nil, err
	}
	return cert, nil
}

// ekKey: identity must be that of what was verified. Keylime lost its chain of trust
// by checking a certificate and using another key.
func (a *appraisal) ekKey() error {
	if a.ekCert == nil {
		return nil // admitted by the hash of the key itself
	}
	key, err := publicKey(a.ekPublic)
	if err != nil {
		return err
	}
	if k, ok := key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(a.ekCert.PublicKey) {
		return errors.New("EK certificate is of another key than the EK")
	}
	return nil
}

func (a *appraisal) akAttributes() (err error) {
	a.akKey, a.akName, err = signingKey(a.akPublic, true)
	return err
}

func (a *appraisal) nodeAttributes() (err error) {
	a.nodeKey, a.nodeKeyName, err = signingKey(a.nodePub, false)
	return err
}

func (a *appraisal) trailAttributes() (err error) {
	a.trailKey, a.trailKeyName, err = signingKey(a.trailPub, false)
	return err
}

// signingKey wants exactly the kind of key we make. For the AK, restricted is the
// attribute everything hangs on: an unrestricted key signs whatever it is given,
// also a quote that no TPM ever made.
func signingKey(public *tpm2.TPMTPublic, restricted bool) (*ecdsa.PublicKey, []byte, error) {
	if got, want := public.ObjectAttributes, signingAttributes(restricted); got != want {
		return nil, nil, fmt.Errorf("attributes %+v, want %+v", got, want)
	}
	if public.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, nil, fmt.Errorf("named by hash algorithm 0x%04x, want SHA-256", uint16(public.NameAlg))
	}
	key, err := p256(public)
	if err != nil {
		return nil, nil, err
	}
	params, err := public.Parameters.ECCDetail()
	if err != nil {
		return nil, nil, err
	}
	if params.Scheme.Scheme != tpm2.TPMAlgECDSA {
		return nil, nil, fmt.Errorf("signs by scheme 0x%04x, want ECDSA", uint16(params.Scheme.Scheme))
	}
	scheme, err := params.Scheme.Details.ECDSA()
	if err != nil {
		return nil, nil, err
	}
	if scheme.HashAlg != tpm2.TPMAlgSHA256 {
		return nil, nil, fmt.Errorf("signs hashes by algorithm 0x%04x, want SHA-256", uint16(scheme.HashAlg))
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, nil, err
	}
	return key, name.Buffer, nil
}

func (a *appraisal) parseFeedKey() error {
	key, err := x509.ParsePKIXPublicKey(a.hello.FeedPub)
	if err != nil {
		return err
	}
	feed, ok := key.(*ecdsa.PublicKey)
	if !ok || feed.Curve != elliptic.P256() {
		return errors.New("feed key is not on P-256")
	}
	a.feedKey = feed
	return nil
}

func (a *appraisal) keysDistinct() error {
	keys := []*ecdsa.PublicKey{a.akKey, a.nodeKey, a.trailKey, a.feedKey}
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k.Equal(other) {
				return errors.New("two of AK, node, trail and feed key are the same")
			}
		}
	}
	return nil
}
