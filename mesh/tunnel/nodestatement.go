package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

// exporterLabel is the label of the TLS exporter value in a node statement.
const exporterLabel = "EXPORTER-bailiwick-node-statement"

// maxChain bounds the certificates of a node statement.
const maxChain = 4

var nodeStatement = statement.Type{Name: "node-statement", Version: 1}

type role uint8

const (
	dialler  role = 1
	acceptor role = 2
)

// binding is what a node statement is about: one tunnel, seen from nowhere.
type binding struct {
	exporter          [32]byte
	dialler, acceptor *x509.Certificate // leaves of the workload SVIDs
}

func (b binding) payload(by role) ([]byte, error) {
	d, a := sha256.Sum256(b.dialler.Raw), sha256.Sum256(b.acceptor.Raw)
	return statement.Marshal(struct {
		Role     role   `cbor:"1,keyasint"`
		Exporter []byte `cbor:"2,keyasint"`
		Dialler  []byte `cbor:"3,keyasint"`
		Acceptor []byte `cbor:"4,keyasint"`
	}{by, b.exporter[:], d[:], a[:]})
}

type nodeFrame struct {
	Chain       [][]byte `cbor:"1,keyasint"`
	Statement   []byte   `cbor:"2,keyasint"`
	Endorsement []byte   `cbor:"3,keyasint,omitempty"`
}

// sign makes this node's statement.
func (b binding) sign(by role, node *x509svid.SVID) (nodeFrame, error) {
	payload, err := b.payload(by)
	if err != nil {
		return nodeFrame{}, err
	}
	signed, err := statement.Sign(node.PrivateKey, nodeStatement, node.ID.TrustDomain().Name(), payload)
	if err != nil {
		return nodeFrame{}, err
	}
	f := nodeFrame{Statement: signed}
	for _, c := range node.Certificates {
		f.Chain = append(f.Chain, c.Raw)
	}
	return f, nil
}

// proof is a verified node statement.
type proof struct {
	node        spiffeid.ID
	chain       []*x509.Certificate
	endorsement []byte // not verified
}

// ends is when the first certificate of the node's chain does.
func (p proof) ends() time.Time {
	end := p.chain[0].NotAfter
	for _, c := range p.chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// check says whether the chain still verifies and the node may speak for the
// workload and is welcome.
func (p proof) check(workload spiffeid.ID, bundles x509bundle.Source, welcome func(spiffeid.ID) error, now time.Time) error {
	_, err := identity.VerifyPeer(p.chain, bundles, func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if err := speaksFor(id, workload); err != nil {
			return err
		}
		return welcome(id)
	}, now)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNodeRefused, err)
	}
	return nil
}

// speaksFor says whether a workload's SVID may be shown by a node: they are of
// one trust domain, and of one zone if the workload is bound to one.
func speaksFor(node, workload spiffeid.ID) error {
	n, err := identity.ParseNode(node)
	if err != nil {
		return err
	}
	if node.TrustDomain() != workload.TrustDomain() {
		return fmt.Errorf("node %s may not speak for %s of another trust domain", node, workload)
	}
	if rest, ok := strings.CutPrefix(workload.Path(), "/zone/"); ok {
		if zone, _, _ := strings.Cut(rest, "/"); zone != n.Zone {
			return fmt.Errorf("node %s may not speak for %s of another zone", node, workload)
		}
	}
	return nil
}

// parseNode checks the form and the signature of a node statement. Whether the
// node is to be believed is for proof.check.
func (b binding) parseNode(by role, frame []byte) (proof, error) {
	var f nodeFrame
	if err := statement.Unmarshal(frame, &f); err != nil {
		return proof{}, fmt.Errorf("%w: %w", ErrNodeStatement, err)
	}
	if len(f.Chain) == 0 || len(f.Chain) > maxChain {
		return proof{}, fmt.Errorf("%w: %d certificates, want 1 to %d", ErrNodeStatement, len(f.Chain), maxChain)
	}
	p := proof{endorsement: f.Endorsement}
	for _, der := range f.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return proof{}, fmt.Errorf("%w: %w", ErrNodeStatement, err)
		}
		p.chain = append(p.chain, c)
	}
	var err error
	if p.node, err = x509svid.IDFromCert(p.chain[0]); err != nil {
		return proof{}, fmt.Errorf("%w: %w", ErrNodeStatement, err)
	}
	e, err := statement.Parse(f.Statement)
	if err != nil {
		return proof{}, fmt.Errorf("%w: %w", ErrNodeStatement, err)
	}
	want, err := b.payload(by)
	if err != nil {
		return proof{}, err
	}
	if !bytes.Equal(e.Payload(), want) {
		return proof{}, fmt.Errorf("%w: it is about another connection or side", ErrNodeStatement)
	}
	key, _ := p.chain[0].PublicKey.(*ecdsa.PublicKey)
	if err := e.Verify(key, nodeStatement, p.node.TrustDomain().Name()); err != nil {
		return proof{}, fmt.Errorf("%w: %w", ErrNodeStatement, err)
	}
	return p, nil
}
