package bundle

import (
	"crypto/ecdsa"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Verified is a record that Verify vouches for. Only Verify makes a useful one.
type Verified struct {
	Record  Record
	Name    [32]byte // SHA-256 of the record's payload
	Modules map[string]string
	Data    map[string]any
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
	env, err := statement.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	v := &Verified{Name: statement.Digest(env.Payload()), statement: b, content: content}
	r := &v.Record
	if err := statement.Unmarshal(env.Payload(), r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
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
		keys, above, end, v.Ceiling, v.floor = []*ecdsa.PublicKey{key}, d, min(end, d.NotAfter), d.ceiling(), d.Floor
	}
	if above != nil && (above.Level != r.Level || above.Scope != r.Scope) {
		return nil, fmt.Errorf("%w: the key is for %s %s, the record for %s %s", ErrDelegation, above.Level, above.Scope, r.Level, r.Scope)
	}
	if !signed(env, keys, recordType, r.Scope) {
		return nil, fmt.Errorf("%w: %s %s version %d", ErrSignature, r.Level, r.Scope, r.Version)
	}
	if err := valid(fmt.Sprintf("%s %s version %d", r.Level, r.Scope, r.Version), r.NotBefore, r.NotAfter, now); err != nil {
		return nil, err
	}
	if r.Version < v.floor {
		return nil, fmt.Errorf("%w: %s %s version %d is below the floor %d of its delegation", ErrRollback, r.Level, r.Scope, r.Version, v.floor)
	}
	for _, f := range r.Requires {
		if !slices.Contains(Features, f) {
			return nil, fmt.Errorf("%w: %q", ErrFeature, f)
		}
	}
	if uint64(len(content)) != r.Size || statement.Digest(content) != r.Digest {
		return nil, fmt.Errorf("%w: %s %s version %d: %d bytes, want %d with SHA-256 %x", ErrDigest, r.Level, r.Scope, r.Version, len(content), r.Size, r.Digest)
	}
	if v.Modules, v.Data, err = Unpack(content); err != nil {
		return nil, err
	}
	v.NotAfter = time.Unix(end, 0).UTC()
	return v, nil
}

func verifyDelegation(b []byte, keys []*ecdsa.PublicKey, above *Delegation, now time.Time) (*Delegation, error) {
	env, err := statement.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	d := new(Delegation)
	if err := statement.Unmarshal(env.Payload(), d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
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
		if err := d.within(above); err != nil {
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
	return policy.Level{Name: v.Record.Level, Revision: fmt.Sprint(v.Record.Version), Modules: v.Modules, Data: v.Data,
		Delegation: v.Ceiling, NotAfter: v.NotAfter, Signed: time.Unix(v.Record.NotBefore, 0).UTC()}
}

// Statement and Content return the exact bytes that were verified, to be passed on.
func (v *Verified) Statement() []byte { return v.statement }
func (v *Verified) Content() []byte   { return v.content }
