package issuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // SPIRE names certificates by it; no promise rests on it
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// ErrEvidence means evidence of SPIRE's x509pop or tpm_devid proves nothing: it is
// malformed, or no configured authority vouches for it. The message says what.
var ErrEvidence = errors.New("node evidence refused")

const (
	maxPoP      = 64 << 10 // bytes of a message
	maxPoPChain = 8
	popNonce    = 32
)

// X509PoP is the Attestor of SPIRE's "x509pop": a machine shows a certificate of the
// operator's and proves that it holds the key. The agent ID is
// /spire/agent/x509pop/<hex SHA-1 of the certificate>. Nodes so attested are
// `unattested`: where their keys live nobody knows.
type X509PoP struct {
	Roots *x509.CertPool // nil refuses everything
}

// Messages of x509pop, as in SPIRE: JSON, the key signs SHA-256(challenge nonce,
// response nonce), RSA with PSS.
type (
	popPayload struct {
		Certificates [][]byte `json:"certificates"` // DER, the machine's own first
	}
	popNonces struct {
		Nonce []byte `json:"nonce"`
	}
	popChallenge struct {
		RSA   *popNonces `json:"rsa_signature"`
		ECDSA *popNonces `json:"ecdsa_signature"`
	}
	popResponse struct {
		RSA *struct {
			Nonce     []byte `json:"nonce"`
			Signature []byte `json:"signature"`
		} `json:"rsa_signature"`
		ECDSA *struct {
			Nonce []byte `json:"nonce"`
			R     []byte `json:"r"`
			S     []byte `json:"s"`
		} `json:"ecdsa_signature"`
	}
)

// Type returns "x509pop".
func (X509PoP) Type() string { return "x509pop" }

// Attest runs SPIRE's exchange. Errors match ErrEvidence.
func (p X509PoP) Attest(_ context.Context, e Evidence, exchange func([]byte) ([]byte, error)) (Attested, error) {
	no := func(format string, args ...any) (Attested, error) {
		return Attested{}, fmt.Errorf("%w: x509pop: %w", ErrEvidence, fmt.Errorf(format, args...))
	}
	malformed := func(format string, args ...any) (Attested, error) {
		_, err := no(format, args...)
		return Attested{}, invalid(err)
	}
	var payload popPayload
	if err := popJSON(e.Payload, &payload); err != nil {
		return malformed("payload: %w", err)
	}
	if n := len(payload.Certificates); n == 0 || n > maxPoPChain {
		return malformed("%d certificates, want 1 to %d", n, maxPoPChain)
	}
	var certs []*x509.Certificate
	between := x509.NewCertPool()
	for i, der := range payload.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return malformed("certificate %d: %w", i, err)
		}
		certs = append(certs, c)
		if i > 0 {
			between.AddCert(c)
		}
	}
	cert := certs[0]
	if p.Roots == nil { // Verify would take the system's
		return no("no authority is configured")
	}
	if err := usualKey(cert.PublicKey); err != nil {
		return no("certificate: %w", err)
	}
	if cert.IsCA || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return no("the certificate is one of an authority, or not for digital signatures")
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: p.Roots, Intermediates: between, CurrentTime: e.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return no("certificate: %w", err)
	}
	nonce := make([]byte, popNonce)
	rand.Read(nonce) // crypto/rand does not fail
	var ask popChallenge
	if _, ok := cert.PublicKey.(*rsa.PublicKey); ok {
		ask.RSA = &popNonces{nonce}
	} else {
		ask.ECDSA = &popNonces{nonce}
	}
	question, err := json.Marshal(ask)
	if err != nil {
		return Attested{}, err
	}
	answer, err := exchange(question)
	if err != nil {
		return Attested{}, err
	}
	var r popResponse
	if err := popJSON(answer, &r); err != nil {
		return malformed("response: %w", err)
	}
	if err := r.verify(cert.PublicKey, nonce); err != nil {
		return no("response: %w", err)
	}
	out := Attested{Name: sha1Hex(cert.Raw), Reattest: true}
	if cn := cert.Subject.CommonName; cn != "" {
		out.Selectors = append(out.Selectors, "x509pop:subject:cn:"+cn)
	}
	for _, above := range chains[0][1:] {
		out.Selectors = append(out.Selectors, "x509pop:ca:fingerprint:"+sha1Hex(above.Raw))
	}
	out.Selectors = append(out.Selectors, "x509pop:serialnumber:"+hex.EncodeToString(cert.SerialNumber.Bytes()))
	return out, nil
}

func (r popResponse) verify(key crypto.PublicKey, nonce []byte) error {
	var theirs []byte
	switch key.(type) {
	case *rsa.PublicKey:
		if r.RSA == nil {
			return errors.New("no RSA signature")
		}
		theirs = r.RSA.Nonce
	default:
		if r.ECDSA == nil {
			return errors.New("no ECDSA signature")
		}
		theirs = r.ECDSA.Nonce
	}
	if len(theirs) != popNonce {
		return fmt.Errorf("nonce of %d bytes, want %d", len(theirs), popNonce)
	}
	digest := sha256.Sum256(append(append([]byte(nil), nonce...), theirs...))
	switch key := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPSS(key, crypto.SHA256, digest[:], r.RSA.Signature, nil)
	case *ecdsa.PublicKey:
		if ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(r.ECDSA.R), new(big.Int).SetBytes(r.ECDSA.S)) {
			return nil
		}
	}
	return errors.New("not signed by the certificate's key")
}

func popJSON(b []byte, into any) error {
	if len(b) > maxPoP {
		return fmt.Errorf("%d bytes, at most %d", len(b), maxPoP)
	}
	return json.Unmarshal(b, into)
}

func sha1Hex(b []byte) string {
	sum := sha1.Sum(b)
	return hex.EncodeToString(sum[:])
}
