package feed

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds of a record's body.
const (
	MaxOps  = 256
	MaxBody = 16 << 10
)

var (
	// ErrTooLarge means ops exceed MaxOps, or their encoding MaxBody. Split them.
	ErrTooLarge = errors.New("too much for one record")

	// ErrForeign means a key whose owner is someone else. Only the identity in a
	// key's path may write it.
	ErrForeign = errors.New("the key belongs to another owner")

	errOp = errors.New("malformed op")
)

// Action says what an op does to its key.
type Action uint8

const (
	Put Action = 1
	Del Action = 2
)

func (a Action) String() string {
	switch a {
	case Put:
		return "put"
	case Del:
		return "del"
	}
	return "none"
}

// Scope says how far an op may travel. The zero value goes nowhere: it is refused.
type Scope uint8

const (
	ScopeZone   Scope = 1
	ScopeRegion Scope = 2
	ScopeGlobal Scope = 3
)

func (s Scope) String() string {
	switch s {
	case ScopeZone:
		return "zone"
	case ScopeRegion:
		return "region"
	case ScopeGlobal:
		return "global"
	}
	return "none"
}

// Op is one change of one key. Ops that were read from a record lie in its bytes:
// do not change them, and clone what outlives the record.
type Op struct {
	Key    string `cbor:"1,keyasint"`
	Action Action `cbor:"2,keyasint"`
	Scope  Scope  `cbor:"4,keyasint"`
	Value  []byte `cbor:"3,keyasint,omitempty"`

	Written *Written `cbor:"5,keyasint,omitempty"` // in snapshots, else nil
}

// shape checks what needs no context. before is the key of an op that was checked
// before this one, if any.
func (o *Op) shape(before Key) (Key, error) {
	key, err := parseKeyAfter(before, o.Key)
	switch {
	case err != nil:
		return Key{}, err
	case o.Action != Put && o.Action != Del:
		return Key{}, fmt.Errorf("%w: %s: action %d", errOp, o.Key, o.Action)
	case o.Action == Del && len(o.Value) > 0:
		return Key{}, fmt.Errorf("%w: %s: del with a value", errOp, o.Key)
	case o.Scope < ScopeZone || o.Scope > ScopeGlobal:
		return Key{}, fmt.Errorf("%w: %s: scope %d (1 zone, 2 region, 3 global)", errOp, o.Key, o.Scope)
	}
	return key, nil
}

// CheckOps reports why origin could not write these ops as one record: errors
// wrap ErrKey, ErrForeign, ErrSchema or ErrTooLarge. Quotas are not looked at.
func CheckOps(origin spiffeid.ID, kinds Kinds, ops []Op) error {
	var key Key
	for _, op := range ops {
		var err error
		if key, err = op.shape(key); err != nil {
			return err
		}
		if !key.OwnedBy(origin) {
			return fmt.Errorf("%w: %s is not below %s", ErrForeign, op.Key, origin.Path())
		}
		if err := kinds.Check(op); err != nil {
			return err
		}
	}
	_, err := encodeBody(ops)
	return err
}
