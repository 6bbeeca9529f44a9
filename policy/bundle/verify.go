package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Verified is a record that Verify vouches for. Only Verify makes a useful one.
type Verified struct {
	Record Record
	Name   [32]byte // SHA-256 of the record's payload
	Content
	// Key is the SHA-256 of the public key that signed the record, as PKIX DER.
	Key [32]byte
	// Ceiling is what allows of the level may cover.
	Ceiling policy.Delegation
	// NotAfter is the earliest end of the record and its delegations.
	NotAfter time.Time

	statement, content []byte // exactly as received
	floor              uint64 // of the delegation
}

// Verify checks a signed record and its content against the global policy keys. The order is:
// size and form, delegations from the global key down, signature, validity at now, features,
// digest, content. It compiles nothing: see policy.Check. b and content must not change after.
func Verify(b, content []byte, global []*ecdsa.PublicKey, now time.Time) (*Verified, error) {
	v, err := VerifyRecord(b, global, now)
	if err != nil {
		return nil, err
	}
	return v.With(content)
}

// VerifyRecord is Verify without the content, for those who are about to fetch it. Content and
// Packed are empty then, and Level is no use.
func VerifyRecord(b []byte, global []*ecdsa.PublicKey, now time.Time) (*Verified, error) {
	v := &Verified{statement: b}
	r := &v.Record
	env, err := open(b, r)
	if err != nil {
		return nil, err
	}
	v.Name = statement.Digest(env.Payload())
	if err := r.check(); err != nil {
		return nil, err
	}
	keys, end := global, r.NotAfter
	v.Ceiling = policy.Delegation{All: true}
	var above *Delegation
	for _, db := range r.Delegations {
		d, err := verifyDelegation(db, keys, above, now)
		if err != nil {
			return nil, err
		}
		key, err := d.key()
		if err != nil {
			return nil, err
		}
		keys, above, end, v.Ceiling, v.floor = []*ecdsa.PublicKey{key}, d, min(end, d.NotAfter), d.Covers(), d.Floor
	}
	if above != nil && (above.Level != r.Level || above.Scope != r.Scope) {
		return nil, fmt.Errorf("%w: the key is for %s %s, the record for %s %s", ErrDelegation, above.Level, above.Scope, r.Level, r.Scope)
	}
	by := slices.IndexFunc(keys, func(k *ecdsa.PublicKey) bool { return signed(env, []*ecdsa.PublicKey{k}, recordType, r.Scope) })
	if by < 0 {
		return nil, fmt.Errorf("%w: %s", ErrSignature, r)
	}
	der, err := x509.MarshalPKIXPublicKey(keys[by])
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSignature, r, err)
	}
	v.Key = statement.Digest(der)
	if err := valid(r.String(), r.NotBefore, r.NotAfter, now); err != nil {
		return nil, err
	}
	if r.Version < v.floor {
		return nil, fmt.Errorf("%w: %s is below the floor %d of its delegation", ErrRollback, r, v.floor)
	}
	for _, f := range r.Requires {
		if !slices.Contains(Features, f) {
			return nil, fmt.Errorf("%w: %q", ErrFeature, f)
		}
	}
	v.NotAfter = time.Unix(end, 0).UTC()
	return v, nil
}

// Over reports whether the record holds rather than another of its scope: a newer version does, and of one
// version that with the lower name.
func (v *Verified) Over(other *Verified) bool {
	if v.Record.Version != other.Record.Version {
		return v.Record.Version > other.Record.Version
	}
	return bytes.Compare(v.Name[:], other.Name[:]) < 0
}

// With returns the record with its content, which must be what it names. Errors wrap ErrDigest,
// ErrContent or ErrTooLarge.
func (v *Verified) With(content []byte) (*Verified, error) {
	r := &v.Record
	if uint64(len(content)) != r.Size || statement.Digest(content) != r.Digest {
		return nil, fmt.Errorf("%w: %s: %d bytes, want %d with SHA-256 %x", ErrDigest, r, len(content), r.Size, r.Digest)
	}
	unpacked, err := Unpack(content)
	if err != nil {
		return nil, err
	}
	out := *v
	out.Content, out.content = unpacked, content
	return &out, nil
}

// ReadRecord returns what a signed record says, and verifies nothing: for those who
// are about to sign the next one. Errors match ErrMalformed.
func ReadRecord(b []byte) (r Record, err error) {
	_, err = open(b, &r)
	return r, err
}

// ReadDelegation is ReadRecord for a signed delegation.
func ReadDelegation(b []byte) (d Delegation, err error) {
	if _, err = open(b, &d); err == nil {
		err = d.check()
	}
	return d, err
}

// SignedBy reports whether a key signed a record. It says nothing of whether the key may.
func SignedBy(b []byte, key *ecdsa.PublicKey) bool {
	var r Record
	env, err := open(b, &r)
	return err == nil && signed(env, []*ecdsa.PublicKey{key}, recordType, r.Scope)
}

// open parses a statement and its payload.
func open(b []byte, payload any) (statement.Envelope, error) {
	env, err := statement.Parse(b)
	if err == nil {
		err = statement.Unmarshal(env.Payload(), payload)
	}
	if err != nil {
		return env, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return env, nil
}

func verifyDelegation(b []byte, keys []*ecdsa.PublicKey, above *Delegation, now time.Time) (*Delegation, error) {
	d := new(Delegation)
	env, err := open(b, d)
	if err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	if !signed(env, keys, delegationType, d.Scope) {
		return nil, fmt.Errorf("%w: the delegation of %s %s", ErrSignature, d.Level, d.Scope)
	}
	want := policy.Regional
	if above != nil {
		want = policy.Local
		if !strings.HasPrefix(d.Scope, above.Scope+"/") {
			return nil, fmt.Errorf("%w: %s does not lie in %s", ErrDelegation, d.Scope, above.Scope)
		}
		if err := d.Within(above); err != nil {
			return nil, err
		}
	}
	if d.Level != want {
		return nil, fmt.Errorf("%w: a delegation of level %s where %s belongs", ErrDelegation, d.Level, want)
	}
	return d, valid(fmt.Sprintf("the delegation of %s %s", d.Level, d.Scope), d.NotBefore, d.NotAfter, now)
}

func signed(env statement.Envelope, keys []*ecdsa.PublicKey, t statement.Type, scope string) bool {
	return slices.ContainsFunc(keys, func(k *ecdsa.PublicKey) bool { return env.Verify(k, t, domainOf(scope)) == nil })
}

func valid(what string, from, to int64, now time.Time) error {
	if now.Unix() < from || now.Unix() > to {
		return fmt.Errorf("%w: %s is valid from %s to %s", ErrExpired, what,
			time.Unix(from, 0).UTC().Format(time.RFC3339), time.Unix(to, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// Level returns the policy in the form the engine takes.
func (v *Verified) Level() policy.Level {
	return policy.Level{Name: v.Record.Level, Revision: fmt.Sprint(v.Record.Version), Modules: v.Modules, Data: v.Data, Schemas: v.Schemas,
		Delegation: v.Ceiling, NotAfter: v.NotAfter, Signed: time.Unix(v.Record.NotBefore, 0).UTC()}
}

// Statement and Packed return the exact bytes that were verified, to be passed on.
func (v *Verified) Statement() []byte { return v.statement }
func (v *Verified) Packed() []byte    { return v.content }
