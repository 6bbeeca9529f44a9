package app

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// globalKeys reads the public keys of the global authority.
func globalKeys(c config.Config) (out []*ecdsa.PublicKey, err error) {
	for _, path := range c.Trust.GlobalKeys {
		b, err := os.ReadFile(string(path))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("%w: %s: no public key", ErrPEM, path)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPEM, path, err)
		}
		pub, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%w: %s: want a P-256 key, not %T", ErrPEM, path, key)
		}
		out = append(out, pub)
	}
	return out, nil
}

// loadTrust takes in what the configuration brings and what was learned since.
func loadTrust(c config.Config, global []*ecdsa.PublicKey, kept [][]byte) (*trust.Set, error) {
	set, err := trust.NewSet(global, c.Trust.Threshold)
	if err != nil {
		return nil, err
	}
	for _, raw := range kept {
		if err := set.Restore(raw); err != nil {
			return nil, fmt.Errorf("kept trust record: %w", err)
		}
	}
	for _, path := range c.Trust.Records {
		b, err := os.ReadFile(string(path))
		if err != nil {
			return nil, err
		}
		if _, _, err := set.Apply(b, time.Now()); err != nil && !errors.Is(err, trust.ErrOld) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if _, ok := set.Record(c.Node.TrustDomain()); !ok {
		return nil, fmt.Errorf("trust.records: %w: %s", trust.ErrUnknown, c.Node.TrustDomain())
	}
	return set, nil
}

// activate verifies the configured policy files and puts them in force. A
// node does not start on policy it cannot verify.
func activate(c config.Config, engine *policy.Engine, book *bundle.Book, st *store.Store, global []*ecdsa.PublicKey) ([]*bundle.Verified, error) {
	td := c.Node.TrustDomain().Name()
	var all []*bundle.Verified
	var levels []policy.Level
	for _, f := range []struct {
		path         config.Path
		level, scope string
	}{{c.Policy.Global, policy.Global, bundle.ScopeMesh}, {c.Policy.Region, policy.Regional, td}} {
		v, err := policyFile(string(f.path), book, global)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
		if v.Record.Level != f.level || v.Record.Scope != f.scope {
			return nil, fmt.Errorf("%s: %w: it is %s policy for %s, want %s for %s", f.path, bundle.ErrMalformed, v.Record.Level, v.Record.Scope, f.level, f.scope)
		}
		all, levels = append(all, v), append(levels, v.Level())
	}
	if err := engine.Activate(levels...); err != nil {
		return nil, err
	}
	return all, st.Update(func(tx *store.Tx) error {
		return trail.Append(tx, trail.PolicyActivate, map[string]any{"revision": engine.Revision()})
	})
}

func policyFile(path string, book *bundle.Book, global []*ecdsa.PublicKey) (*bundle.Verified, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	signed, content, err := bundle.Split(b)
	if err != nil {
		return nil, err
	}
	v, err := bundle.Verify(signed, content, global, time.Now())
	if err != nil {
		return nil, err
	}
	return v, book.Keep(v, time.Now())
}

// subjects turns verified facts about identities into the words of policy.
type subjects struct {
	self     spiffeid.ID
	dir      *directory
	standing *standings
	attested func(spiffeid.ID) policyAttestation
}

// policyAttestation is how a node proved itself, as far as known here.
type policyAttestation struct {
	kind  string
	class string // limits class; empty where it is not known
	ok    bool
	at    time.Time
}

// node describes a node.
func (s *subjects) node(id spiffeid.ID) *policy.Peer {
	p := &policy.Peer{
		SPIFFEID: id.String(), TrustDomain: id.TrustDomain().Name(), Path: segments(id),
		Region: s.dir.region(id.TrustDomain()), Standing: s.standing.of(id).Standing.String(),
	}
	if n, err := identity.ParseNode(id); err == nil {
		p.Node, p.Zone = n.Name, n.Zone
	}
	a := s.attested(id)
	p.Attestation = &policy.Attestation{Kind: a.kind, OK: a.ok}
	if !a.at.IsZero() {
		p.Attestation.AgeSeconds = max(0, int64(time.Since(a.at).Seconds()))
	}
	p.Roles = s.roles(id, a.class)
	return p
}

// roles are those that enrolment and the authority gave a node. What its own
// record says is for people.
func (s *subjects) roles(id spiffeid.ID, class string) (out []string) {
	td := id.TrustDomain()
	if s.dir.book(td).Record(s.dir.region(td)).Master == id {
		out = append(out, roleAuth)
	}
	if class == roleGateway {
		out = append(out, roleGateway)
	}
	return out
}

// workload describes a workload by its own ID and the node it runs on.
func (s *subjects) workload(id, node spiffeid.ID) *policy.Peer {
	p := s.node(node)
	p.SPIFFEID, p.TrustDomain, p.Path = id.String(), id.TrustDomain().Name(), segments(id)
	p.Region = s.dir.region(id.TrustDomain())
	return p
}

func segments(id spiffeid.ID) []string { return strings.Split(strings.TrimPrefix(id.Path(), "/"), "/") }
