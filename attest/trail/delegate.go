package trail

import (
	"crypto"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// delegationLine is the first line of a delegation. No origin has a space, so none is ever
// taken for a head, and no head for one.
const delegationLine = "bailiwick trail delegation 1"

const (
	maxDelegation = 2 << 10 // bytes
	maxDelegate   = 1 << 10 // bytes of the key
)

// ErrDelegation means bytes are no delegation, or not one by this trail key.
var ErrDelegation = errors.New("not this trail key's word on another key")

// Delegation is a trail key's word that another key is its node's too, such as the one
// that the node cosigns others' heads with. It is a signed note (C2SP signed-note) by the
// trail key with three lines:
//
//	bailiwick trail delegation 1
//	<the other key, a line without spaces>
//	<since when, Unix seconds>
type Delegation struct {
	Origin string // of the trail whose key says so
	To     string
	Since  time.Time // whole seconds, by the node's own clock
}

func (d Delegation) text() string {
	return fmt.Sprintf("%s\n%s\n%d\n", delegationLine, d.To, d.Since.Unix())
}

// Delegate signs a delegation to a key with the trail key of an origin. Errors wrap ErrKey
// or ErrDelegation, or are the key's.
func Delegate(key crypto.Signer, origin, to string, since time.Time) ([]byte, error) {
	s, err := newSigner(origin, key)
	if err != nil {
		return nil, err
	}
	raw, err := note.Sign(&note.Note{Text: Delegation{origin, to, since}.text()}, s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	_, err = OpenDelegation(raw, s.vkey)
	return raw, err
}

// OpenDelegation verifies a delegation with a trail key as VerifierKey prints it. Errors
// wrap ErrDelegation or ErrKey.
func OpenDelegation(raw []byte, vkey string) (Delegation, error) {
	v, err := newVerifier(vkey)
	if err != nil {
		return Delegation{}, err
	}
	if len(raw) > maxDelegation {
		return Delegation{}, fmt.Errorf("%w: %d bytes, at most %d", ErrDelegation, len(raw), maxDelegation)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		return Delegation{}, fmt.Errorf("%w: %w", ErrDelegation, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || len(n.UnverifiedSigs) > 0 {
		return Delegation{}, fmt.Errorf("%w: not three lines and one signature", ErrDelegation)
	}
	since, err := strconv.ParseInt(lines[2], 10, 64)
	d := Delegation{v.Name(), lines[1], time.Unix(since, 0).UTC()}
	if err != nil || since < 0 || since > maxTime/1000 || d.To == "" || len(d.To) > maxDelegate || strings.ContainsAny(d.To, " \t\r") || d.text() != n.Text {
		return Delegation{}, fmt.Errorf("%w: not a key and a time", ErrDelegation)
	}
	return d, nil
}
