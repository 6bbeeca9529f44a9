package spire

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// The TLS exporter (RFC 8446 §7.5, no context) that binds evidence to its
// channel. The issuer computes the same.
const (
	exporterLabel = "EXPORTER-bailiwick-attest"
	exporterSize  = 32
)

// An appeal is an attestation with a note in the call's metadata; the issuer says in the trailer
// that it took it. It has the same names.
const (
	appealKey   = "bailiwick-appeal-bin"
	appealTaken = "bailiwick-appeal"
)

// maxChallenges bounds how often a server may ask back.
const maxChallenges = 8

// An Attester has evidence of one type.
type Attester interface {
	// Type is the attestation type, such as "join_token".
	Type() string
	// Begin returns the first message, and what answers challenges: nil if the
	// type has none.
	Begin(ctx context.Context) (payload []byte, answer func(Question) ([]byte, error), err error)
}

// Question is a challenge, and what the answer must be bound to.
type Question struct {
	Challenge []byte
	Exporter  []byte // of the channel
	CSRKey    []byte // PKIX of the key to be certified
}

// JoinToken attests by a token the operator gave, once. No format verb and no
// logger prints it.
type JoinToken struct{ secret string }

// NewJoinToken wraps a token.
func NewJoinToken(secret string) JoinToken { return JoinToken{secret} }

// Type returns "join_token".
func (JoinToken) Type() string { return "join_token" }

// Begin returns the token.
func (j JoinToken) Begin(context.Context) ([]byte, func(Question) ([]byte, error), error) {
	return []byte(j.secret), nil, nil
}

// String hides the token; so do GoString and every format verb.
func (JoinToken) String() string { return "JoinToken(redacted)" }

// Format hides the token.
func (j JoinToken) Format(f fmt.State, _ rune) { fmt.Fprint(f, j.String()) }

// EpochProof speaks for a node without a TPM, by "bailiwick_epoch": it holds the key of an epoch
// certificate. It is good for Appeal; issuers give no SVID for it.
type EpochProof struct {
	TrustDomain spiffeid.TrustDomain
	Cert        []byte        // DER; it may have ended
	Key         crypto.Signer // of the certificate
}

var epochProofType = statement.Type{Name: "epoch-proof", Version: 1}

// Type returns "bailiwick_epoch".
func (EpochProof) Type() string { return "bailiwick_epoch" }

// Begin returns the certificate.
func (p EpochProof) Begin(context.Context) ([]byte, func(Question) ([]byte, error), error) {
	return p.Cert, func(q Question) ([]byte, error) {
		payload, err := statement.Marshal(struct {
			Exporter  []byte `cbor:"1,keyasint"`
			Challenge []byte `cbor:"2,keyasint"`
		}{q.Exporter, q.Challenge})
		if err != nil {
			return nil, err
		}
		return statement.Sign(p.Key, epochProofType, p.TrustDomain.Name(), payload)
	}, nil
}

// TPM attests by "bailiwick_tpm". Its fields are those of tpm.Keys' Hello and
// Prove, all required.
type TPM struct {
	Keys interface {
		Hello(feedPub, bootLog []byte) ([]byte, error)
		Prove(hello, challenge, exporter, csrSPKI, bootLog []byte) ([]byte, error)
	}
	FeedKey []byte // PKIX, P-256
	BootLog []byte
}

// Type returns "bailiwick_tpm".
func (TPM) Type() string { return "bailiwick_tpm" }

// Begin returns the hello.
func (t TPM) Begin(context.Context) ([]byte, func(Question) ([]byte, error), error) {
	hello, err := t.Keys.Hello(t.FeedKey, t.BootLog)
	if err != nil {
		return nil, nil, err
	}
	return hello, func(q Question) ([]byte, error) {
		return t.Keys.Prove(hello, q.Challenge, q.Exporter, q.CSRKey, t.BootLog)
	}, nil
}

// Agent is what a successful attestation gives.
type Agent struct {
	SVID *x509svid.SVID
	// Reattest says that renewal is by attesting again; otherwise by Renew.
	Reattest bool
}

// Attest proves what machine this is and returns its agent SVID, for key. With
// "bailiwick_tpm" the key must be the TPM's node key. Errors match ErrBanned,
// ErrRefused, ErrUnreachable, ErrServer or ErrAnswer, or are the attester's own.
func Attest(ctx context.Context, cfg Config, by Attester, key crypto.Signer) (Agent, error) {
	return attest(ctx, cfg, by, key, "")
}

// Appeal attests as Attest does and, in place of an SVID, has the issuer take a note to the
// region's authority: why a machine that gets nothing at present is sound. Errors are those of
// Attest; ErrRefused has the reason.
func Appeal(ctx context.Context, cfg Config, by Attester, key crypto.Signer, note string) error {
	if note == "" {
		return fmt.Errorf("%w: an appeal needs a note", ErrRefused)
	}
	_, err := attest(ctx, cfg, by, key, note)
	return err
}

func attest(ctx context.Context, cfg Config, by Attester, key crypto.Signer, appeal string) (Agent, error) {
	if appeal != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, appealKey, appeal)
	}
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	conn, err := cfg.connect(nil)
	if err != nil {
		return Agent{}, err
	}
	defer conn.Close()
	conn.Connect() // while the TPM, if there is one, works on what is sent first
	payload, answer, err := by.Begin(ctx)
	if err != nil {
		return Agent{}, fmt.Errorf("attest by %s: %w", by.Type(), err)
	}
	csr, err := request(key, spiffeid.ID{})
	if err != nil {
		return Agent{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Agent{}, err
	}
	stream, err := agentv1.NewAgentClient(conn).AttestAgent(ctx)
	if err != nil {
		return Agent{}, conn.explain(err)
	}
	exporter, err := export(stream.Context())
	if err != nil {
		return Agent{}, err
	}
	// An error of Send is only io.EOF: Recv then says why.
	_ = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data:   &types.AttestationData{Type: by.Type(), Payload: payload},
		Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}}})
	for range maxChallenges + 1 {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) && appeal != "" && slices.Equal(stream.Trailer().Get(appealTaken), []string{"taken"}) {
			return Agent{}, nil
		}
		if err != nil {
			return Agent{}, conn.explain(err)
		}
		if r := resp.GetResult(); r != nil && appeal != "" {
			return Agent{}, fmt.Errorf("%w: an SVID in answer to an appeal: it takes none", ErrAnswer)
		} else if r != nil {
			svid, err := cfg.accept(r.GetSvid(), key, spiffeid.ID{})
			return Agent{SVID: svid, Reattest: r.GetReattestable()}, err
		}
		if answer == nil {
			return Agent{}, fmt.Errorf("%w: a challenge, where %s has none", ErrAnswer, by.Type())
		}
		response, err := answer(Question{Challenge: resp.GetChallenge(), Exporter: exporter, CSRKey: spki})
		if err != nil {
			return Agent{}, fmt.Errorf("attest by %s: %w", by.Type(), err)
		}
		_ = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_ChallengeResponse{ChallengeResponse: response}})
	}
	return Agent{}, fmt.Errorf("%w: more than %d challenges", ErrAnswer, maxChallenges)
}

// export returns the exporter of the connection a stream runs on.
func export(ctx context.Context) ([]byte, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("%w: stream without a connection", ErrUnreachable)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, fmt.Errorf("%w: connection without TLS", ErrServer)
	}
	return info.State.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
}
