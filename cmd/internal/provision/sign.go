package provision

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// Delegate lets a region's policy key sign its region's policy, in the name of a
// global key. The ceiling bounds what that policy may allow.
func Delegate(global crypto.Signer, r trust.Record, ceiling policy.Delegation, v Validity) ([]byte, error) {
	key, err := x509.MarshalPKIXPublicKey(r.PolicyKey)
	if err != nil {
		return nil, err
	}
	return bundle.Certify(global, bundle.Delegation{
		Level: policy.Regional, Scope: r.TrustDomain.Name(), Key: key, NotBefore: v.From.Unix(), NotAfter: v.To.Unix(),
		Kinds: ceiling.Kinds, Regions: ceiling.Regions, Services: ceiling.Services,
	})
}

// Policy is one version of a policy, to be signed.
type Policy struct {
	Level, Scope   string // "global", "mesh"; or as the delegation says
	Version        uint64
	Author, Change string // SPIFFE ID; why
	Content        []byte // of bundle.Pack or Encode
	Delegations    [][]byte
	Parent         bundle.Parent
	MaxStaleness   time.Duration // whole seconds; 0: no bound
	StaleMode      string        // of package bundle; empty: continue
	Rollout        *rollout.Plan // nil: every node puts it in force at once
}

// Following is the next version of a signed record, with its terms and without content.
func Following(signed []byte) (Policy, error) {
	r, err := bundle.ReadRecord(signed)
	return Policy{
		Level: r.Level, Scope: r.Scope, Version: r.Version + 1, Author: r.Author, Delegations: r.Delegations, Parent: r.Parent,
		MaxStaleness: time.Duration(r.MaxStaleness) * time.Second, StaleMode: r.StaleMode,
	}, err
}

// Under makes it policy of the level and scope that delegations lead to, outermost first.
// The last has to be for the key that is to sign. Nothing is verified: nodes do.
func (p *Policy) Under(key *ecdsa.PublicKey, delegations [][]byte) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	d, err := bundle.ReadDelegation(delegations[len(delegations)-1])
	if err != nil {
		return err
	}
	if !bytes.Equal(der, d.Key) {
		return fmt.Errorf("%w: the delegation of %s %s is for key %s, not %s", bundle.ErrDelegation, d.Level, d.Scope, Fingerprint(d.Key), KeyFingerprint(key))
	}
	p.Level, p.Scope, p.Delegations = d.Level, d.Scope, delegations
	return nil
}

// Sign makes the policy file that nodes take.
func (p Policy) Sign(key crypto.Signer, v Validity) ([]byte, error) {
	requires := slices.Clone(bundle.Features)
	if p.Rollout == nil {
		requires = slices.DeleteFunc(requires, func(f string) bool { return f == bundle.FeatureRollout })
	}
	signed, err := bundle.Sign(key, bundle.Record{
		Level: p.Level, Scope: p.Scope, Version: p.Version, Parent: p.Parent, Mode: bundle.Enforce, StaleMode: cmp.Or(p.StaleMode, bundle.StaleContinue),
		MaxStaleness: int64(p.MaxStaleness / time.Second),
		Author:       p.Author, Change: p.Change, Requires: requires, Delegations: p.Delegations, Rollout: p.Rollout,
		NotBefore: v.From.Unix(), NotAfter: v.To.Unix(),
	}, p.Content)
	if err != nil {
		return nil, err
	}
	return bundle.Join(signed, p.Content)
}

// Fingerprint names a key or a certificate in few words: the first half of the
// SHA-256 of its DER, in hex.
func Fingerprint(der []byte) string {
	digest := statement.Digest(der)
	return hex.EncodeToString(digest[:16])
}

// KeyFingerprint is Fingerprint of a public key in PKIX form.
func KeyFingerprint(key *ecdsa.PublicKey) string { return authority.KeyName(key) }
