package issuer

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// EpochProof is the Attestor of "bailiwick_epoch", which is good for an appeal and for nothing
// else: a node without a TPM, whose token is spent, shows an epoch certificate that the region gave
// it, and signs with the key in it. That says whose words these are, and nothing of the machine: the
// key is in software, and may be what was stolen. A node with a TPM is refused: it has a quote.
//
// The payload is the certificate in DER, the challenge 32 random bytes, the response a statement of
// type "epoch-proof/1" over {1: TLS exporter bstr, 2: challenge bstr}. The certificate may have
// ended, as whoever is shut out for long gets no new one.
type EpochProof struct {
	TrustDomain spiffeid.TrustDomain
	Roots       func() []*x509.Certificate // the region's record roots; nil refuses everything
}

// EpochProofType is the type of the statement that answers.
var EpochProofType = statement.Type{Name: "epoch-proof", Version: 1}

const maxEpochProof = 1 << 10 // bytes of a response

type epochProof struct {
	Exporter  []byte `cbor:"1,keyasint"`
	Challenge []byte `cbor:"2,keyasint"`
}

// Type returns "bailiwick_epoch".
func (EpochProof) Type() string { return "bailiwick_epoch" }

// Attest returns whom an appeal is heard of. Errors wrap ErrEvidence.
func (p EpochProof) Attest(_ context.Context, e Evidence, exchange func([]byte) ([]byte, error)) (Attested, error) {
	refuse := func(format string, args ...any) (Attested, error) {
		return Attested{}, fmt.Errorf("%w: %s: %w", ErrEvidence, p.Type(), fmt.Errorf(format, args...))
	}
	if p.Roots == nil {
		return refuse("no record roots")
	}
	begins, err := epoch.NotBefore(e.Payload)
	if err != nil {
		return refuse("%w", err)
	}
	cert, err := epoch.Verify(e.Payload, p.Roots(), p.TrustDomain, begins)
	if err != nil {
		return refuse("%w", err)
	}
	if cert.Attested() {
		return refuse("%s has a TPM: it appeals with a fresh quote", cert.ID)
	}
	challenge := make([]byte, 32)
	rand.Read(challenge) // never fails, see package crypto/rand
	answer, err := exchange(challenge)
	if err != nil {
		return Attested{}, err
	}
	if len(answer) > maxEpochProof {
		return refuse("a response of %d bytes, at most %d", len(answer), maxEpochProof)
	}
	env, err := statement.Parse(answer)
	if err != nil {
		return refuse("%w", err)
	}
	if err := env.Verify(cert.Key, EpochProofType, p.TrustDomain.Name()); err != nil {
		return refuse("%w", err)
	}
	var said epochProof
	if err := statement.Unmarshal(env.Payload(), &said); err != nil {
		return refuse("%w", err)
	}
	if !bytes.Equal(said.Exporter, e.Exporter) || !bytes.Equal(said.Challenge, challenge) {
		return refuse("it answers another channel or another challenge")
	}
	return Attested{Speaker: cert.ID, Epoch: cert.Epoch}, nil
}
