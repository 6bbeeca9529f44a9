package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// ErrUnknownAgent means nothing attested under this agent ID.
var ErrUnknownAgent = errors.New("no agent has attested under this ID")

const (
	agentsBucket    = "issuer/agents"
	maxAgentVersion = 255 // bytes, as in SPIRE
)

// Trail leaf kinds of this package.
const (
	leafAttest = "issuer.attest"
	leafIssue  = "issuer.issue"
	leafRefuse = "issuer.refuse"
	leafAdmin  = "admin.action"
)

// agent is what the issuer remembers of one agent ID.
type agent struct {
	Type       string `cbor:"1,keyasint"`
	TPM        bool   `cbor:"2,keyasint"`
	Reattest   bool   `cbor:"3,keyasint"`
	Banned     bool   `cbor:"4,keyasint"`
	Serial     []byte `cbor:"5,keyasint"` // of the active SVID
	Next       []byte `cbor:"6,keyasint"` // of a renewed one, active once it is shown
	At         int64  `cbor:"7,keyasint"` // of the attestation, Unix seconds
	EKHash     []byte `cbor:"8,keyasint"`
	Maker      string `cbor:"9,keyasint"`
	AK         []byte `cbor:"10,keyasint"` // PKIX, like the other keys
	NodeKey    []byte `cbor:"11,keyasint"`
	FeedKey    []byte `cbor:"12,keyasint"`
	TrailKey   []byte `cbor:"13,keyasint"`
	ResetCount uint32 `cbor:"14,keyasint"`
	Starts     uint64 `cbor:"15,keyasint"`
	Epoch      uint64 `cbor:"16,keyasint"`

	Selectors []string `cbor:"17,keyasint,omitempty"` // type:value, of the evidence
	Expires   int64    `cbor:"18,keyasint,omitempty"` // of the newest SVID, Unix seconds
	Unbound   bool     `cbor:"19,keyasint,omitempty"` // a TPM attested, and not the CSR's key
	Version   string   `cbor:"20,keyasint,omitempty"` // of the agent's program, as it says
	Unseen    []byte   `cbor:"21,keyasint,omitempty"` // SHA-256 of the key of a first SVID nobody has shown yet
}

func newAgent(kind string, a Attested, now time.Time) (agent, error) {
	r := agent{Type: kind, TPM: a.TPM, Reattest: a.Reattest, At: now.Unix(), Maker: a.Maker, ResetCount: a.ResetCount, Starts: a.Starts, Epoch: a.Epoch, Selectors: a.Selectors, Unbound: a.Unbound}
	if a.TPM {
		r.EKHash = a.EKHash[:]
	}
	for _, k := range []struct {
		pub *ecdsa.PublicKey
		out *[]byte
	}{{a.AK, &r.AK}, {a.NodeKey, &r.NodeKey}, {a.FeedKey, &r.FeedKey}, {a.TrailKey, &r.TrailKey}} {
		if k.pub == nil {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(k.pub)
		if err != nil {
			return agent{}, err
		}
		*k.out = der
	}
	return r, nil
}

func loadAgent(tx *store.Tx, id spiffeid.ID) (agent, error) {
	b := tx.Get(agentsBucket, []byte(id.Path()))
	if b == nil {
		return agent{}, fmt.Errorf("%w: %s", ErrUnknownAgent, id)
	}
	var a agent
	if err := statement.Unmarshal(b, &a); err != nil {
		return agent{}, fmt.Errorf("record of %s: %w", id, err)
	}
	return a, nil
}

func (a agent) save(tx *store.Tx, id spiffeid.ID) error {
	b, err := statement.Marshal(a)
	if err != nil {
		return err
	}
	return tx.Put(agentsBucket, []byte(id.Path()), b)
}

// active reports whether a certificate is the agent's current one, and whether
// that has to be remembered.
func (a *agent) active(c *x509.Certificate) (ok, changed bool) {
	serial := c.SerialNumber.Bytes()
	switch {
	case bytes.Equal(serial, a.Serial):
		return true, false
	case len(a.Next) != 0 && bytes.Equal(serial, a.Next):
		a.Serial, a.Next, a.Unseen = a.Next, nil, nil
		return true, true
	}
	return false, false
}

// again reports whether evidence that works once may work again: for the same key, as
// long as nobody has shown what it was issued. The answer was lost on its way, and
// whoever else has the evidence does not have the key.
func (a agent) again(key []byte) bool { return len(a.Unseen) > 0 && bytes.Equal(a.Unseen, key) }

// publicKey reads a remembered key; nil if there is none.
func publicKey(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) == 0 {
		return nil, nil
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, statement.ErrKey
	}
	return pub, nil
}

// Bodies of the leaves. An auditor reads them, so keys are words.
type attestLeaf struct {
	Type  string `cbor:"type"`
	Agent string `cbor:"agent,omitempty"`
	From  string `cbor:"from"`
	OK    bool   `cbor:"ok"`
	Why   string `cbor:"why,omitempty"`
}

type issueLeaf struct {
	What     string `cbor:"what"` // agent, node, workload, jwt, server, epoch, endorsement, devid
	To       string `cbor:"to"`   // who asked
	ID       string `cbor:"id"`   // who it is for
	Serial   []byte `cbor:"serial,omitempty"`
	Key      []byte `cbor:"key"` // SHA-256 of the PKIX key; of a JWT, the ID of the key that signed it
	NotAfter int64  `cbor:"not_after"`
	Epoch    uint64 `cbor:"epoch,omitempty"`
	Class    string `cbor:"class,omitempty"`

	authority string // that signed it, if its retirement must wait for this
}

// write puts the leaf into the trail, and into the book of live identities.
func (l issueLeaf) write(tx *store.Tx) error {
	if l.authority != "" {
		if err := enter(tx, l.authority, l.ID, l.NotAfter); err != nil {
			return err
		}
	}
	return leaf(tx, leafIssue, l)
}

type refuseLeaf struct {
	What string `cbor:"what"`
	To   string `cbor:"to"`
	ID   string `cbor:"id,omitempty"`
	Why  string `cbor:"why"`
}

// adminLeaf is of the local API.
type adminLeaf struct {
	What   string `cbor:"what"`
	ID     string `cbor:"id,omitempty"`
	Parent string `cbor:"parent,omitempty"`
	Entry  string `cbor:"entry,omitempty"`
}

// maxWhy keeps a leaf small whatever an error says.
const maxWhy = 256

func leaf(tx *store.Tx, kind string, body any) error {
	b, err := statement.Marshal(body)
	if err != nil {
		return err
	}
	return tx.Leaf(kind, b)
}

func (s *Server) issuedLeaf(what string, to, id spiffeid.ID, c *x509.Certificate) issueLeaf {
	key := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return issueLeaf{What: what, To: to.String(), ID: id.String(), Serial: c.SerialNumber.Bytes(), Key: key[:], NotAfter: c.NotAfter.Unix(),
		authority: s.cfg.CA.signer(c)}
}

func short(err error) string { return bounded.Text(err.Error(), maxWhy) }
