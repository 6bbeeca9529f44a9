package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// ErrToken means a join token is unknown, expired or spent.
var ErrToken = errors.New("join token refused: it is unknown, expired, or was used before; ask the operator for a new one")

// ExporterLabel names the TLS exporter (RFC 8446 §7.5, no context, 32 bytes)
// that binds evidence to the channel it came over.
const ExporterLabel = "EXPORTER-bailiwick-attest"

// DevIDExporterLabel names the exporter, likewise, that binds a DevID request to its
// channel.
const DevIDExporterLabel = "EXPORTER-bailiwick-devid"

// ExporterSize is the length of that exporter, in bytes.
const ExporterSize = 32

// MaxEvidence is the largest payload or challenge response, in bytes: a TPM's
// proof carries a boot log. Attestors know tighter bounds of their own.
const MaxEvidence = tpm.MaxProof

// An Attestor judges one type of evidence. It may be called concurrently.
type Attestor interface {
	// Type is the attestation type in SPIRE's API, such as "join_token".
	Type() string
	// Attest returns what the evidence proves, or why it proves nothing; the
	// error's text goes back to the node, with the code PermissionDenied unless the
	// error is a gRPC status. exchange sends a challenge and waits
	// for the response.
	Attest(ctx context.Context, e Evidence, exchange func(challenge []byte) (response []byte, err error)) (Attested, error)
}

// Evidence is what a node offers, with what it must be bound to.
type Evidence struct {
	Payload  []byte // at most MaxEvidence
	Exporter []byte // of the channel it came over
	CSRKey   []byte // PKIX of the key to be certified
	Now      time.Time
}

// Attested is what evidence proved. Keys are P-256 or nil.
type Attested struct {
	Name       string // last part of the agent ID; one for ever for one machine
	Reattest   bool   // the same evidence may be judged again, and renewal is by doing so
	TPM        bool   // a TPM vouches for the keys below
	EKHash     [32]byte
	Maker      string
	AK         *ecdsa.PublicKey
	NodeKey    *ecdsa.PublicKey // the only key that agent and node SVIDs may be for; nil without a TPM
	FeedKey    *ecdsa.PublicKey
	TrailKey   *ecdsa.PublicKey
	ResetCount uint32
	Starts     uint64
	Epoch      uint64
	// Unbound says that the evidence is of a TPM, and the CSR's key not proven to be in
	// it: such an agent gets no epoch certificate.
	Unbound bool
	// Speaker, if set, is a node whose words these are, and no machine was proven: such evidence
	// is good for an appeal, and nothing is issued for it.
	Speaker spiffeid.ID
	// Selectors say what is known of the machine, as type:value; node aliases match
	// them.
	Selectors []string
	// Judged, if set, records in the same transaction as the agent what judged it.
	Judged Record
	// Spend, if set, uses up the evidence in the transaction that records the
	// agent.
	Spend func(*store.Tx) error
}

// Record writes what an admission rests on, in the transaction that makes it. Its error
// ends the admission.
type Record = func(*store.Tx) error

// invalid is a refusal with the code InvalidArgument, where SPIRE's server answers so:
// a stock agent ends for good at PermissionDenied, and at nothing else.
func invalid(why error) error { return invalidArgument{why} }

type invalidArgument struct{ error }

func (e invalidArgument) Unwrap() error { return e.error }

// GRPCStatus makes it a gRPC status.
func (e invalidArgument) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, "attestation refused: "+e.Error())
}

// Token admits one machine without a TPM, once. Only its hash is kept here.
type Token struct {
	Hash    [32]byte  // SHA-256 of the token's bytes
	Expires time.Time // zero: already expired
}

// JoinTokens is the Attestor of SPIRE's type "join_token". The agent ID is
// /spire/agent/join_token/<hex of the token's hash>: unlike in SPIRE, the ID
// does not give the token away. Nodes so attested are `unattested`.
type JoinTokens struct {
	mu     sync.Mutex // held for accesses only; guards what follows
	tokens []Token
	made   map[[32]byte]time.Time // by the API: when they expire
}

// Buckets of tokens: spent ones, and those the API made.
const (
	tokensBucket = "issuer/tokens"
	madeBucket   = "issuer/tokens-made"
)

// Set replaces the tokens that do not come from the API. Those that are spent
// stay so.
func (j *JoinTokens) Set(tokens []Token) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tokens = slices.Clone(tokens)
}

// load brings back the tokens the API made.
func (j *JoinTokens) load(st *store.Store) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.made = map[[32]byte]time.Time{}
	var bad error
	err := st.View(func(tx *store.Tx) error {
		tx.Range(madeBucket, nil, func(k, v []byte) bool {
			expires, err := strconv.ParseInt(string(v), 10, 64)
			if bad = err; err != nil || len(k) != sha256.Size {
				bad = fmt.Errorf("%w: stored token %x", ErrToken, k)
				return false
			}
			j.made[[32]byte(k)] = time.Unix(expires, 0)
			return true
		})
		return bad
	})
	return err
}

// add makes a token known, in the transaction that stores it, and drops those
// that expired.
func (j *JoinTokens) add(tx *store.Tx, hash [32]byte, expires, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for h, end := range j.made {
		if now.After(end) {
			delete(j.made, h)
			if err := tx.Delete(madeBucket, h[:]); err != nil {
				return err
			}
		}
	}
	if err := tx.Put(madeBucket, hash[:], fmt.Append(nil, expires.Unix())); err != nil {
		return err
	}
	j.made[hash] = expires
	return nil
}

// expiry returns until when a token is good; zero if it is unknown.
func (j *JoinTokens) expiry(hash [32]byte) time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := slices.IndexFunc(j.tokens, func(t Token) bool { return t.Hash == hash }); i >= 0 {
		return j.tokens[i].Expires
	}
	return j.made[hash]
}

// Type returns "join_token".
func (j *JoinTokens) Type() string { return "join_token" }

// Attest accepts a known token that is not spent; the payload is the token.
func (j *JoinTokens) Attest(_ context.Context, e Evidence, _ func([]byte) ([]byte, error)) (Attested, error) {
	// Looked up by its hash: how long the comparison takes tells nothing of the token.
	hash := sha256.Sum256(e.Payload)
	if !e.Now.Before(j.expiry(hash)) {
		return Attested{}, invalid(ErrToken)
	}
	return Attested{
		Name: hex.EncodeToString(hash[:]),
		Spend: func(tx *store.Tx) error {
			if tx.Get(tokensBucket, hash[:]) != nil {
				return invalid(ErrToken)
			}
			return tx.Put(tokensBucket, hash[:], fmt.Append(nil, e.Now.Unix()))
		},
	}, nil
}
