package authority

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// ErrOrigin means the authority's own ID is not of the trust domain, or missing.
var ErrOrigin = errors.New("authority needs the SPIFFE ID of its own node")

// ErrRepeat means the node was released before and convicted again since. An accident happens
// once; what happens twice has a cause that an operator has to name.
var ErrRepeat = errors.New("the node was released before and is convicted again: find out why it happens, and say --again with the reason")

// ErrRevoked means the identity is revoked, which is the authority's last word.
var ErrRevoked = errors.New("the identity is revoked for good: enrol the machine under another name")

// ErrOwnNode means the authority was told to revoke the node it runs on, or to roll it back: nobody
// would be left to speak for the region, or be heard.
var ErrOwnNode = errors.New("the authority does not revoke or roll back its own node: move the authority to another node first")

// Authority is the single node that signs for a level of its trust domain. Its
// methods may be called from any goroutine; one publication runs at a time.
type Authority struct {
	key   *Key
	self  spiffeid.ID
	level Level
	st    *store.Store
	book  *Book

	approvers func() Approvers

	mu sync.Mutex // held over one publication, its commit included
}

// New returns the authority of the node self, whose own objects are read back
// from the store. approvers says whose approval its releases need at the time; every
// node asks the same of its own trust record. Errors wrap ErrOrigin, ErrLevel or the store's.
func New(key *Key, self spiffeid.ID, level Level, st *store.Store, approvers func() Approvers) (*Authority, error) {
	if self.IsZero() {
		return nil, ErrOrigin
	}
	if level < Autonomous || level > Global {
		return nil, ErrLevel
	}
	a := &Authority{key: key, self: self, level: level, st: st, approvers: approvers}
	a.book = NewBook(self.TrustDomain(), func(l Level) Signers {
		if l != level {
			return Signers{}
		}
		return Signers{Keys: []*ecdsa.PublicKey{key.Public()}} // its own word, approved when it was given
	})
	return a, a.book.Load(st)
}

// Objects returns the newest of everything this authority signed.
func (a *Authority) Objects() []Signed { return a.book.Objects() }

// Epochs returns the region's epochs, kept in the same store.
func (a *Authority) Epochs() *Epochs { return NewEpochs(a.st) }

// SetRecord publishes the region's authority record. Publishing what is held
// already returns the held object: a restart makes no new version. So do the
// other methods. Errors wrap ErrMalformed, ErrForeign or the store's.
func (a *Authority) SetRecord(now time.Time, r Record) (Signed, error) {
	r.Level = a.level
	body, err := r.encode()
	if err != nil {
		return Signed{}, err
	}
	return a.publish(now, KindRecord, r.Region, func(*store.Tx) ([]byte, error) { return body, nil })
}

// SetService publishes which identities may answer to a service name.
func (a *Authority) SetService(now time.Time, s Service) (Signed, error) {
	body, err := s.encode()
	if err != nil {
		return Signed{}, err
	}
	return a.publish(now, KindService, s.Name, func(*store.Tx) ([]byte, error) { return body, nil })
}

// Revoke ends an identity for good. A second call returns the first revocation. Errors wrap
// ErrOwnNode, ErrMalformed, ErrForeign or the store's.
func (a *Authority) Revoke(now time.Time, accused spiffeid.ID, reason string) (Signed, error) {
	if accused == a.self {
		return Signed{}, ErrOwnNode
	}
	if have, ok := a.book.Get(KindRevocation, accused.String()); ok {
		return have, nil
	}
	body, err := quarantine.Revocation{Accused: accused, At: now, Reason: reason}.Encode()
	if err != nil {
		return Signed{}, err
	}
	return a.publish(now, KindRevocation, accused.String(), func(*store.Tx) ([]byte, error) { return body, nil })
}

type publishLeaf struct {
	Kind    string   `cbor:"kind"`
	Level   string   `cbor:"level"`
	Name    string   `cbor:"name,omitempty"`
	Version uint64   `cbor:"version"`
	Digest  [32]byte `cbor:"digest"`
}

// publish signs the next version of a slot and commits it with its trail leaf,
// of kind "authority.publish", before anybody sees it.
func (a *Authority) publish(now time.Time, kind Kind, name string, body func(*store.Tx) ([]byte, error), approvals ...[]byte) (Signed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := Object{Kind: kind, Level: a.level, Name: name, Version: 1, HLC: uint64(now.UnixMilli()) << 16, Origin: a.self, Approvals: approvals}
	have, held := a.book.newestOf(slot{a.level, kind, name})
	if held {
		o.Version, o.Parent = have.Version+1, have.Digest
		o.HLC = max(o.HLC, have.HLC+1)
	}
	var s Signed
	same := false
	err := a.st.Update(func(tx *store.Tx) (err error) {
		if o.Body, err = body(tx); err != nil {
			return err
		}
		if same = held && bytes.Equal(o.Body, have.Body); same {
			return nil
		}
		if s, err = seal(a.key.secret, a.self.TrustDomain(), o); err != nil {
			return err
		}
		return errors.Join(
			a.book.Put(tx, s),
			leaf(tx, "authority.publish", publishLeaf{string(kind), a.level.String(), name, o.Version, s.Digest}),
		)
	})
	if err != nil {
		return Signed{}, fmt.Errorf("publish %s %q: %w", kind, name, err)
	}
	if same {
		return have, nil
	}
	s, _, err = a.book.Add(s.Raw)
	return s, err
}

func (b *Book) newestOf(at slot) (Signed, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s, ok := b.newest[at]
	return s, ok
}
