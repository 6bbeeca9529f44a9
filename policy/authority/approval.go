package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// MaxApprovals is the most approvals one release carries.
const MaxApprovals = 16

var approvalType = statement.Type{Name: "release-approval", Version: 1}

// Approvers are whose signatures a release needs beside the authority's, as the region's trust
// record says, which no key of the region can change: at least Threshold different ones of Keys.
// At zero none are needed. A threshold that the keys cannot reach is reached by nobody.
type Approvers struct {
	Threshold int
	Keys      []*ecdsa.PublicKey
}

// Signers are whom a node trusts for the objects of one level. The zero value is nobody.
type Signers struct {
	Keys      []*ecdsa.PublicKey // newest first
	Approvers Approvers          // of releases
}

// KeyName is how an approver's key is shown: the first half of the SHA-256 of its PKIX DER, in
// hex, as trust list has it.
func KeyName(key *ecdsa.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "unreadable"
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:16])
}

// approval is what an approver signs: the body of a release, all of it, by digest.
func approval(body []byte) []byte {
	digest := statement.Digest(body)
	b, _ := statement.Marshal(digest[:]) // of bytes: cannot fail
	return b
}

// check says whose approvals of a release's body count, by KeyName, or wraps quarantine.ErrApprovals. A key
// counts once, however often it is named or has signed.
func (a Approvers) check(td spiffeid.TrustDomain, body []byte, approvals [][]byte) (by []string, err error) {
	if a.Threshold <= 0 {
		return nil, nil
	}
	var missing []string
	want := approval(body)
	for i, key := range a.Keys {
		if key == nil || slices.ContainsFunc(a.Keys[:i], func(k *ecdsa.PublicKey) bool { return k != nil && k.Equal(key) }) {
			continue
		}
		if slices.ContainsFunc(approvals, func(raw []byte) bool { return approvedBy(key, td, want, raw) }) {
			by = append(by, KeyName(key))
		} else {
			missing = append(missing, KeyName(key))
		}
	}
	if len(by) < a.Threshold {
		have := "nobody"
		if len(by) > 0 {
			have = strings.Join(by, ", ")
		}
		return by, fmt.Errorf("%w: %d of the %d required; approved by %s; missing of %s", quarantine.ErrApprovals, len(by), a.Threshold, have, strings.Join(missing, ", "))
	}
	return by, nil
}

func approvedBy(key *ecdsa.PublicKey, td spiffeid.TrustDomain, want, raw []byte) bool {
	env, err := statement.Parse(raw)
	return err == nil && bytes.Equal(env.Payload(), want) && env.Verify(key, approvalType, td.Name()) == nil
}

// Draft is a release that the authority has not signed yet. It goes as a file from approver to
// approver, offline, and back to the authority's node.
type Draft struct {
	TrustDomain spiffeid.TrustDomain
	Release     quarantine.Release
	body        []byte   // Release, as it is signed
	approvals   [][]byte // statements, ascending
}

type draftWire struct {
	TrustDomain string   `cbor:"1,keyasint"`
	Body        []byte   `cbor:"2,keyasint"`
	Approvals   [][]byte `cbor:"3,keyasint,omitempty"`
}

// Encode writes the draft as deterministic CBOR.
func (d Draft) Encode() ([]byte, error) {
	return statement.Marshal(draftWire{d.TrustDomain.Name(), d.body, d.approvals})
}

// ParseDraft reads what Encode wrote. It verifies no approval. Errors wrap quarantine.ErrDraft.
func ParseDraft(b []byte) (Draft, error) {
	var w draftWire
	if len(b) > MaxSize {
		return Draft{}, fmt.Errorf("%w: %d bytes, at most %d", quarantine.ErrDraft, len(b), MaxSize)
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return Draft{}, fmt.Errorf("%w: %w", quarantine.ErrDraft, err)
	}
	td, err := spiffeid.TrustDomainFromString(w.TrustDomain)
	if err != nil || td.Name() != w.TrustDomain {
		return Draft{}, fmt.Errorf("%w: trust domain %q", quarantine.ErrDraft, w.TrustDomain)
	}
	r, err := quarantine.ParseRelease(w.Body)
	if err == nil {
		err = checkApprovals(w.Approvals)
	}
	if err == nil && r.Accused.TrustDomain() != td {
		err = fmt.Errorf("%w: %s in a draft of %s", ErrForeign, r.Accused, td)
	}
	if err != nil {
		return Draft{}, fmt.Errorf("%w: %w", quarantine.ErrDraft, err)
	}
	return Draft{td, r, w.Body, w.Approvals}, nil
}

// checkApprovals holds approvals to their bounds and their one spelling; whose they are is for
// Approvers to say.
func checkApprovals(all [][]byte) error {
	if len(all) > MaxApprovals {
		return fmt.Errorf("%w: %d approvals, at most %d", ErrMalformed, len(all), MaxApprovals)
	}
	for i, raw := range all {
		if _, err := statement.Parse(raw); err != nil {
			return fmt.Errorf("%w: approval %d: %w", ErrMalformed, i, err)
		}
		if i > 0 && bytes.Compare(all[i-1], raw) >= 0 {
			return fmt.Errorf("%w: approval %d is out of order", ErrMalformed, i)
		}
	}
	return nil
}

// Approvals is how many signatures the draft carries. Whether they count is known where the
// region's trust record is.
func (d Draft) Approvals() int { return len(d.approvals) }

// Approve returns the draft with the approval of one more key; one that has approved already
// adds none. Errors wrap quarantine.ErrDraft: it is full.
func (d Draft) Approve(key crypto.Signer) (Draft, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return d, fmt.Errorf("%w: approvers have P-256 keys, not %T", quarantine.ErrDraft, key.Public())
	}
	payload := approval(d.body)
	if slices.ContainsFunc(d.approvals, func(raw []byte) bool { return approvedBy(pub, d.TrustDomain, payload, raw) }) {
		return d, nil
	}
	if len(d.approvals) >= MaxApprovals {
		return d, fmt.Errorf("%w: it has %d approvals, the most there may be", quarantine.ErrDraft, MaxApprovals)
	}
	raw, err := statement.Sign(key, approvalType, d.TrustDomain.Name(), payload)
	if err != nil {
		return d, err
	}
	d.approvals = append(slices.Clone(d.approvals), raw)
	slices.SortFunc(d.approvals, bytes.Compare)
	return d, nil
}
