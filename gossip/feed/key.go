package feed

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxKey and maxName bound keys and their last segment, in bytes.
const (
	MaxKey  = 512
	maxName = 128
	maxKind = 32
)

// ErrKey means a key is not /<owner path>/<kind>/<name>. Write it so.
var ErrKey = errors.New("malformed key")

// Key is a parsed state key.
type Key struct {
	Owner string // path of the owner's SPIFFE ID, with the leading slash
	Kind  string
	Name  string
}

// ParseKey splits a key. Errors wrap ErrKey.
func ParseKey(s string) (Key, error) {
	if len(s) > MaxKey {
		return Key{}, fmt.Errorf("%w: %d bytes, at most %d", ErrKey, len(s), MaxKey)
	}
	rest, name, ok := cutLast(s)
	if !ok || len(name) > maxName {
		return Key{}, fmt.Errorf("%w: %q has no name of 1 to %d bytes", ErrKey, s, maxName)
	}
	owner, kind, ok := cutLast(rest)
	if !ok || !validKind(kind) {
		return Key{}, fmt.Errorf("%w: %q has no kind before the name", ErrKey, s)
	}
	if owner == "" || spiffeid.ValidatePath(s) != nil {
		return Key{}, fmt.Errorf("%w: %q is not a SPIFFE path with an owner", ErrKey, s)
	}
	return Key{Owner: owner, Kind: kind, Name: name}, nil
}

// KeyOf returns the key of owner's thing called name. It is valid when
// ParseKey takes it.
func KeyOf(owner spiffeid.ID, kind, name string) string {
	return owner.Path() + "/" + kind + "/" + name
}

// String returns the key as ParseKey reads it.
func (k Key) String() string { return k.Owner + "/" + k.Kind + "/" + k.Name }

// OwnedBy reports whether origin may write the key.
func (k Key) OwnedBy(origin spiffeid.ID) bool {
	return k.Owner != "" && k.Owner == origin.Path()
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 || i == len(s)-1 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func validKind(s string) bool {
	if len(s) > maxKind || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
