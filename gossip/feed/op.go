package feed

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
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

// Op is one change of one key.
type Op struct {
	Key    string `cbor:"1,keyasint"`
	Action Action `cbor:"2,keyasint"`
	Value  []byte `cbor:"3,keyasint,omitempty"`
	Scope  Scope  `cbor:"4,keyasint"`
}

// leaf is what the ops root commits to for one op.
type leaf struct {
	Key    string   `cbor:"1,keyasint"`
	Action Action   `cbor:"2,keyasint"`
	Value  [32]byte `cbor:"3,keyasint"`
	Scope  Scope    `cbor:"4,keyasint"`
}

func (o Op) leaf() ([]byte, error) {
	return statement.Marshal(leaf{o.Key, o.Action, statement.Digest(o.Value), o.Scope})
}

// shape checks what needs no context.
func (o Op) shape() (Key, error) {
	key, err := ParseKey(o.Key)
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
	for _, op := range ops {
		key, err := op.shape()
		if err != nil {
			return err
		}
		if !key.OwnedBy(origin) {
			return fmt.Errorf("%w: %s is not below %s", ErrForeign, op.Key, origin.Path())
		}
		if err := kinds.check(key, op); err != nil {
			return err
		}
	}
	_, err := encodeBody(ops)
	return err
}

func encodeBody(ops []Op) ([]byte, error) {
	if len(ops) > MaxOps {
		return nil, fmt.Errorf("%w: %d ops, at most %d", ErrTooLarge, len(ops), MaxOps)
	}
	body, err := statement.Marshal(ops)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d", ErrTooLarge, len(body), MaxBody)
	}
	return body, nil
}

// decodeBody reads a body, whose ops all have their proper shape.
func decodeBody(body []byte) ([]Op, error) {
	if len(body) > MaxBody {
		return nil, ErrTooLarge
	}
	var ops []Op
	if err := statement.Unmarshal(body, &ops); err != nil {
		return nil, err
	}
	if len(ops) > MaxOps {
		return nil, ErrTooLarge
	}
	for _, op := range ops {
		if _, err := op.shape(); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

// leaves returns the leaf inputs of ops, in order.
func leaves(ops []Op) ([][]byte, error) {
	out := make([][]byte, len(ops))
	for i, op := range ops {
		b, err := op.leaf()
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}
