package spire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer/issuerv1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// devidLabel names the TLS exporter that binds a DevID request to its channel.
const devidLabel = "EXPORTER-bailiwick-devid"

// DevID attests by SPIRE's "tpm_devid", to our own issuer or a stock server. Key is
// a *tpm.DevID.
type DevID struct {
	Key interface {
		Begin(chain [][]byte) ([]byte, error)
		Answer(challenge, exporter, csrSPKI, feedPub []byte) ([]byte, error)
	}
	Chain   [][]byte // of the DevID, DER, its own first
	FeedKey []byte   // PKIX, P-256; may be nil
}

// Type returns "tpm_devid".
func (DevID) Type() string { return "tpm_devid" }

// Begin returns the opening message.
func (d DevID) Begin(context.Context) ([]byte, func(Question) ([]byte, error), error) {
	payload, err := d.Key.Begin(d.Chain)
	return payload, func(q Question) ([]byte, error) { return d.Key.Answer(q.Challenge, q.Exporter, q.CSRKey, d.FeedKey) }, err
}

// X509PoP attests by SPIRE's "x509pop": a certificate of the operator's, and its
// key: ECDSA, or RSA of a kind that signs with PSS.
type X509PoP struct {
	Chain [][]byte // DER, the machine's own first
	Key   crypto.Signer
}

// Type returns "x509pop".
func (X509PoP) Type() string { return "x509pop" }

// Begin returns the chain.
func (x X509PoP) Begin(context.Context) ([]byte, func(Question) ([]byte, error), error) {
	payload, err := json.Marshal(map[string][][]byte{"certificates": x.Chain})
	return payload, x.answer, err
}

func (x X509PoP) answer(q Question) ([]byte, error) {
	type nonce struct {
		Nonce []byte `json:"nonce"`
	}
	var ask struct {
		RSA   *nonce `json:"rsa_signature"`
		ECDSA *nonce `json:"ecdsa_signature"`
	}
	if err := json.Unmarshal(q.Challenge, &ask); err != nil {
		return nil, fmt.Errorf("%w: challenge: %w", ErrAnswer, err)
	}
	own := make([]byte, 32)
	rand.Read(own) // crypto/rand does not fail
	sign := func(theirs *nonce, opts crypto.SignerOpts) ([]byte, error) {
		if theirs == nil || len(theirs.Nonce) != len(own) {
			return nil, fmt.Errorf("%w: the challenge is not for the certificate's key", ErrAnswer)
		}
		digest := sha256.Sum256(append(append([]byte(nil), theirs.Nonce...), own...))
		return x.Key.Sign(rand.Reader, digest[:], opts)
	}
	switch x.Key.Public().(type) {
	case *rsa.PublicKey:
		sig, err := sign(ask.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
		if err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"rsa_signature": map[string][]byte{"nonce": own, "signature": sig}})
	case *ecdsa.PublicKey:
		sig, err := sign(ask.ECDSA, crypto.SHA256)
		if err != nil {
			return nil, err
		}
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &rs); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"ecdsa_signature": map[string][]byte{"nonce": own, "r": rs.R.Bytes(), "s": rs.S.Bytes()}})
	}
	return nil, errors.New("x509pop needs an RSA or ECDSA key")
}

// CertifyDevID has our own issuer certify a DevID key of the TPM this agent
// attested with. key is a *tpm.DevID. It returns the chain, the DevID's own first,
// and the authority's certificate, for devid_ca_path of a stock server.
func (c *Client) CertifyDevID(ctx context.Context, key interface {
	Files() (public, private []byte)
	Request(exporter []byte) (attest, signature []byte, err error)
}) (chain [][]byte, authority []byte, err error) {
	// The request is bound to the connection it is sent on, so that must stand first.
	var on peer.Peer
	client := issuerv1.NewIssuerClient(c.conn)
	if err := c.postStatus(ctx, 0, "", grpc.Peer(&on)); err != nil {
		return nil, nil, err
	}
	info, ok := on.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, nil, fmt.Errorf("%w: connection without TLS", ErrServer)
	}
	exporter, err := info.State.ExportKeyingMaterial(devidLabel, nil, exporterSize)
	if err != nil {
		return nil, nil, err
	}
	public, _ := key.Files()
	attest, signature, err := key.Request(exporter)
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.CertifyDevID(ctx, &issuerv1.CertifyDevIDRequest{Public: public, Attest: attest, Signature: signature})
	if err != nil {
		return nil, nil, c.conn.explain(err)
	}
	if len(resp.GetChain()) == 0 {
		return nil, nil, fmt.Errorf("%w: no DevID certificate", ErrAnswer)
	}
	return resp.GetChain(), resp.GetAuthority(), nil
}
