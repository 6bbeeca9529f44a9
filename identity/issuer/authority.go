package issuer

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
)

var (
	// ErrAuthority means an authority is unknown, or not in the state that a step
	// of its rotation needs. Nothing was changed.
	ErrAuthority = errors.New("signing authority is not ready for this step: prepare, publish, activate, taint and retire follow each other")
	// ErrAuthorityInUse means identities that are still valid were signed by the
	// authority that was to be retired. The message names some, and when the last of
	// them expires.
	ErrAuthorityInUse = errors.New("signing authority is still needed: taint it, and wait until what it signed has expired")
	// ErrUnpublished means the region's trust record does not name the root yet, so
	// other regions and nodes would refuse what it signs.
	ErrUnpublished = errors.New("signing root is not in the region's trust record yet: have the global authority sign a newer record that names it too, and put it in force here first")
)

// Kind is what an authority signs.
type Kind string

// The kinds of authorities.
const (
	X509 Kind = "x509"
	JWT  Kind = "jwt"
)

// State is how far an authority is in its rotation.
type State string

// The states. In each an authority is published: whatever it may have signed
// verifies.
const (
	Prepared State = "prepared" // signs nothing yet
	Active   State = "active"   // signs; there is one of each kind
	Old      State = "old"      // signs nothing any more
)

// Authority is one signing authority, for operators to see.
type Authority struct {
	Kind     Kind
	ID       string // X509: hex of the subject key ID; JWT: the key ID
	State    State
	Tainted  bool // holders of what it signed are told to renew at once
	NotAfter time.Time
	// Certificate is of an X509 authority, Key of a JWT authority.
	Certificate *x509.Certificate
	Key         *ecdsa.PublicKey
	// Nested says that another authority, the upstream, certified it.
	Nested bool
}

// authority is an Authority with its key.
type authority struct {
	Authority
	file string            // in the folder of the keys
	root *root.Root        // X509
	key  *ecdsa.PrivateKey // JWT
}

// authorities are all of one moment. They are never changed: each step of a
// rotation makes new ones.
type authorities struct {
	sequence uint64 // grows with every change
	all      []authority
	upstream *spiffebundle.Bundle // of the authority above; nil unless nested
}

// find returns the index of an authority, or -1.
func (a *authorities) find(k Kind, id string) int {
	return slices.IndexFunc(a.all, func(x authority) bool { return x.Kind == k && x.ID == id })
}

// in returns the one authority of a kind that is in a state, if there is one.
func (a *authorities) in(k Kind, s State) (authority, bool) {
	if i := slices.IndexFunc(a.all, func(x authority) bool { return x.Kind == k && x.State == s }); i >= 0 {
		return a.all[i], true
	}
	return authority{}, false
}

func (a *authorities) of(k Kind) (out []authority) {
	for _, x := range a.all {
		if x.Kind == k {
			out = append(out, x)
		}
	}
	return out
}

// next is the same set again, to be changed.
func (a *authorities) next() *authorities {
	return &authorities{sequence: a.sequence + 1, all: slices.Clone(a.all), upstream: a.upstream}
}

// prepare adds an authority that signs nothing yet.
func (a *authorities) prepare(n authority) (*authorities, error) {
	if other, ok := a.in(n.Kind, Prepared); ok {
		return nil, fmt.Errorf("%w: %s %s is prepared already: activate or retire it", ErrAuthority, n.Kind, other.ID)
	}
	b := a.next()
	n.State = Prepared
	b.all = append(b.all, n)
	return b, nil
}

// activate lets a prepared authority sign, and makes the one before old.
func (a *authorities) activate(k Kind, id string, now time.Time) (*authorities, error) {
	i := a.find(k, id)
	switch {
	case i < 0 || a.all[i].State != Prepared:
		return nil, fmt.Errorf("%w: no %s authority %q is prepared", ErrAuthority, k, id)
	case !now.Before(a.all[i].NotAfter):
		return nil, fmt.Errorf("%w: %s authority %s has expired", ErrAuthority, k, id)
	}
	b := a.next()
	for j := range b.all {
		if b.all[j].Kind == k && b.all[j].State == Active {
			b.all[j].State = Old
		}
	}
	b.all[i].State = Active
	return b, nil
}

// taint marks an old authority.
func (a *authorities) taint(k Kind, id string) (*authorities, error) {
	i := a.find(k, id)
	if i < 0 || a.all[i].State != Old {
		return nil, fmt.Errorf("%w: no %s authority %q is old: activate another one first", ErrAuthority, k, id)
	}
	b := a.next()
	b.all[i].Tainted = true
	return b, nil
}

// retire takes an authority away that does not sign.
func (a *authorities) retire(k Kind, id string) (*authorities, error) {
	i := a.find(k, id)
	if i < 0 || a.all[i].State == Active {
		return nil, fmt.Errorf("%w: no %s authority %q is prepared or old", ErrAuthority, k, id)
	}
	b := a.next()
	b.all = slices.Delete(b.all, i, i+1)
	return b, nil
}
