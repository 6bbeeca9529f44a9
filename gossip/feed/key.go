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
func ParseKey(s string) (Key, error) { return parseKeyAfter(Key{}, s) }

// parseKeyAfter is ParseKey for the next of many keys: an owner and a kind that
// the one before had are not looked at again.
func parseKeyAfter(before Key, s string) (Key, error) {
	if len(s) > MaxKey {
		return Key{}, fmt.Errorf("%w: %d bytes, at most %d", ErrKey, len(s), MaxKey)
	}
	key, ok := splitKey(s)
	switch {
	case !ok || len(key.Name) > maxName:
		return Key{}, fmt.Errorf("%w: %q has no owner, kind and name of 1 to %d bytes", ErrKey, s, maxName)
	case key.Kind != before.Kind && !validKind(key.Kind):
		return Key{}, fmt.Errorf("%w: %q has no kind before the name", ErrKey, s)
	case key.Owner != before.Owner && spiffeid.ValidatePath(key.Owner) != nil || spiffeid.ValidatePathSegment(key.Name) != nil:
		return Key{}, fmt.Errorf("%w: %q is not a SPIFFE path with an owner", ErrKey, s)
	}
	return key, nil
}

// splitKey cuts a key at its last two slashes, whatever is between them. Of a key
// that ParseKey takes it gives the same.
func splitKey(s string) (key Key, ok bool) {
	last := strings.LastIndexByte(s, '/')
	if last <= 0 {
		return Key{}, false
	}
	before := strings.LastIndexByte(s[:last], '/')
	if before <= 0 {
		return Key{}, false
	}
	key = Key{Owner: s[:before], Kind: s[before+1 : last], Name: s[last+1:]}
	return key, key.Kind != "" && key.Name != ""
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
