package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

func ifBound(holds func(*devidAppraisal) error) func(*devidAppraisal) error {
	return func(d *devidAppraisal) error {
		if d.response.BailiwickKeyBinding == nil {
			return nil
		}
		return holds(d)
	}
}

// devidAppraisal is what is known of one "tpm_devid" attestation so far.
type devidAppraisal struct {
	appraisal
	roots *x509.CertPool
	bytes []byte // the message under judgement

	payload  devidPayload
	devid    *x509.Certificate
	chain    []*x509.Certificate // devid to root
	devidPub *tpm2.TPMTPublic
	akAny    crypto.PublicKey // RSA or P-256

	nonce    []byte
	response devidResponse
	bound    *tpm2.TPMSAttest

	quoterPub *tpm2.TPMTPublic
	quoterKey *ecdsa.PublicKey // of the AK of bailiwick_tpm
	quoter    *tpm2.TPMSAttest
}

func (d *devidAppraisal) parse() (err error) {
	p := &d.payload
	if err := decodeJSON(d.bytes, p); err != nil {
		return err
	}
	if n := len(p.DevIDCert); n == 0 || n > maxEKCerts {
		return fmt.Errorf("%d DevID certificates, want 1 to %d", n, maxEKCerts)
	}
	if len(p.CertifiedDevID) > maxAttest || len(p.CertificationSignature) > maxAttest || len(p.EKCert) == 0 {
		return errors.New("no EK certificate, or a certification of unusual size")
	}
	for _, key := range []struct {
		name string
		from []byte
		to   **tpm2.TPMTPublic
	}{{"EK", p.EKPub, &d.ekPublic}, {"AK", p.AKPub, &d.akPublic}, {"DevID key", p.DevIDPub, &d.devidPub}} {
		if *key.to, err = parsePublic(key.from); err != nil {
			return fmt.Errorf("%s: %w", key.name, err)
		}
	}
	pkix, err := publicPKIX(d.ekPublic)
	if err != nil {
		return fmt.Errorf("EK: %w", err)
	}
	d.ekHash = sha256.Sum256(pkix)
	d.hello.EKCerts = [][]byte{p.EKCert}
	d.devid, err = x509.ParseCertificate(p.DevIDCert[0])
	return err
}

func (d *devidAppraisal) devidChain() error {
	if d.roots == nil { // Verify would take the system's
		return errors.New("no DevID authority is configured")
	}
	between := x509.NewCertPool()
	for _, der := range d.payload.DevIDCert[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(c)
	}
	if d.devid.IsCA {
		return errors.New("DevID certificate is one of an authority")
	}
	chains, err := d.devid.Verify(x509.VerifyOptions{
		Roots: d.roots, Intermediates: between, CurrentTime: d.began, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return err
	}
	d.chain = chains[0]
	return nil
}

func (d *devidAppraisal) devidKey() error {
	key, err := publicKey(d.devidPub)
	if err != nil {
		return err
	}
	if !sameKey(key, d.devid.PublicKey) {
		return errors.New("DevID certificate is of another key")
	}
	return nil
}

func (d *devidAppraisal) devidAttributes() error { return resident(d.devidPub, false) }

// resident wants a signing key that was born in a TPM and cannot leave it.
func resident(public *tpm2.TPMTPublic, restricted bool) error {
	a := public.ObjectAttributes
	switch {
	case !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin:
		return errors.New("key is not one that was born in its TPM and cannot leave it")
	case !a.SignEncrypt || a.Decrypt:
		return errors.New("key is not one that only signs")
	case a.Restricted != restricted:
		return fmt.Errorf("key has restricted %v, want %v", a.Restricted, restricted)
	}
	return nil
}

// devidAKAttributes: only a restricted key signs nothing but what the TPM made.
func (d *devidAppraisal) devidAKAttributes() error {
	if err := resident(d.akPublic, true); err != nil {
		return fmt.Errorf("AK: %w", err)
	}
	if d.akPublic.NameAlg != tpm2.TPMAlgSHA256 {
		return fmt.Errorf("AK is named by hash algorithm 0x%04x, want SHA-256", uint16(d.akPublic.NameAlg))
	}
	key, err := publicKey(d.akPublic)
	if err != nil {
		return err
	}
	name, err := tpm2.ObjectName(d.akPublic)
	if err != nil {
		return err
	}
	d.akAny, d.akName = key, name.Buffer
	return nil
}

func (d *devidAppraisal) certifySignature() error {
	return verifyTPM(d.akAny, d.payload.CertifiedDevID, d.payload.CertificationSignature)
}

// verifyTPM checks a TPMT_SIGNATURE with SHA-256 over data.
func verifyTPM(key crypto.PublicKey, data, signature []byte) error {
	if len(signature) < 2 {
		return errors.New("no signature")
	}
	// The unmarshaller leaves unions of other types empty and could not write them again.
	alg := tpm2.TPMAlgID(binary.BigEndian.Uint16(signature))
	if alg != tpm2.TPMAlgRSASSA && alg != tpm2.TPMAlgECDSA {
		return fmt.Errorf("signature by scheme 0x%04x, want RSASSA or ECDSA", uint16(alg))
	}
	sig, err := strict[tpm2.TPMTSignature](signature)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(data)
	switch key := key.(type) {
	case *rsa.PublicKey:
		s, err := sig.Signature.RSASSA()
		if err != nil {
			return err
		}
		if s.Hash != tpm2.TPMAlgSHA256 {
			return fmt.Errorf("signature hashes by 0x%04x, want SHA-256", uint16(s.Hash))
		}
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], s.Sig.Buffer)
	case *ecdsa.PublicKey:
		r, s, err := ecdsaSignature(sig)
		if err != nil {
			return err
		}
		if !ecdsa.Verify(key, digest[:], r, s) {
			return errors.New("not signed by the AK")
		}
		return nil
	}
	return fmt.Errorf("AK of type %T", key)
}

func (d *devidAppraisal) certifyMagic() error { return magic(d.payload.CertifiedDevID) }

func magic(attest []byte) error {
	if len(attest) < 6 || binary.BigEndian.Uint32(attest) != uint32(tpm2.TPMGeneratedValue) {
		return errors.New("not made by a TPM: it does not start with TPM_GENERATED_VALUE")
	}
	return nil
}

func (d *devidAppraisal) certifyType() (err error) {
	d.node, err = certification(d.payload.CertifiedDevID)
	return err
}

func certification(attest []byte) (*tpm2.TPMSAttest, error) {
	if got := tpm2.TPMST(binary.BigEndian.Uint16(attest[4:])); got != tpm2.TPMSTAttestCertify {
		return nil, fmt.Errorf("structure of type 0x%04x, want 0x%04x", uint16(got), uint16(tpm2.TPMSTAttestCertify))
	}
	return strict[tpm2.TPMSAttest](attest)
}

func (d *devidAppraisal) certifyName() error { return certifiesKey(d.node, d.devidPub) }

func certifiesKey(attest *tpm2.TPMSAttest, public *tpm2.TPMTPublic) error {
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return err
	}
	info, err := attest.Attested.Certify()
	if err != nil {
		return err
	}
	if !bytes.Equal(info.Name.Buffer, name.Buffer) {
		return errors.New("another key is certified")
	}
	return nil
}

func (d *devidAppraisal) parseResponse() error {
	if err := decodeJSON(d.bytes, &d.response); err != nil {
		return err
	}
	if b := d.response.BailiwickKeyBinding; b != nil && (len(b.Attest) > maxAttest || len(b.Signature) > maxAttest || len(b.FeedPub) > maxAttest) {
		return errors.New("key binding of unusual size")
	} else if b != nil && b.Quoter != nil && (len(b.Quoter.Attest) > maxAttest || len(b.Quoter.Signature) > maxAttest) {
		return errors.New("certification of the AK of unusual size")
	}
	return nil
}

func (d *devidAppraisal) nonceSignature() error {
	digest := sha256.Sum256(d.nonce)
	switch key := d.devid.PublicKey.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], d.response.DevID)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(key, digest[:], d.response.DevID) {
			return nil
		}
	}
	return errors.New("the nonce is not signed by the DevID key")
}

func (d *devidAppraisal) devidActivated() error {
	if !hmac.Equal(d.response.CredActivation, d.secret) {
		return errors.New("this is not what only this EK and AK can open")
	}
	return nil
}

func (d *devidAppraisal) bindingAttributes() (err error) {
	if d.nodePub, err = parsePublic(d.response.BailiwickKeyBinding.SVIDPub); err != nil {
		return err
	}
	d.nodeKey, d.nodeKeyName, err = signingKey(d.nodePub, false)
	return err
}

func (d *devidAppraisal) bindingSignature() error {
	return verifyTPM(d.akAny, d.response.BailiwickKeyBinding.Attest, d.response.BailiwickKeyBinding.Signature)
}

func (d *devidAppraisal) bindingMagic() error { return magic(d.response.BailiwickKeyBinding.Attest) }

func (d *devidAppraisal) bindingType() (err error) {
	d.bound, err = certification(d.response.BailiwickKeyBinding.Attest)
	return err
}

func (d *devidAppraisal) bindingNonce() error {
	want := bindingData(d.nonce, d.exporter, d.csrSPKI, d.response.BailiwickKeyBinding.FeedPub)
	if !hmac.Equal(d.bound.ExtraData.Buffer, want[:]) {
		return errors.New("bound for another session, channel, CSR or feed key")
	}
	return nil
}

func bindingData(nonce, exporter, csrSPKI, feedPub []byte) [32]byte {
	return sha256.Sum256(lengthPrefixed([]byte(bindTag), nonce, exporter, csrSPKI, feedPub))
}

func (d *devidAppraisal) bindingName() error { return certifiesKey(d.bound, d.nodePub) }

func (d *devidAppraisal) bindingFeed() error {
	d.hello.FeedPub = d.response.BailiwickKeyBinding.FeedPub
	if len(d.hello.FeedPub) == 0 {
		return nil
	}
	return d.parseFeedKey()
}

func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
