package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// algCosignature is the C2SP signed-note signature type of Ed25519 cosignatures.
const algCosignature = 0x04

const (
	keyHashSize     = 4
	cosignatureSize = keyHashSize + 8 + ed25519.SignatureSize
	maxLine         = 4096 // bytes of a signature line
)

var (
	// ErrKey means a verifier key that is not Ed25519 of type 0x04, is not spelled as
	// Key.Verifier prints it, or is named after another node.
	ErrKey = errors.New("not this node's witness key")

	// ErrCosignature means a line is no cosignature of this head by this key.
	ErrCosignature = errors.New("not a cosignature of this head by this witness")
)

// Name is what a node is called as a witness. Errors wrap trail.ErrNode.
func Name(node spiffeid.ID) (string, error) {
	origin, err := trail.Origin(node, 0)
	if err != nil {
		return "", err
	}
	td, rest, _ := strings.Cut(origin, "/trail/")
	return td + "/witness/" + strings.TrimSuffix(rest, "/0"), nil
}

// Key cosigns. Its zero value cannot.
type Key struct {
	name string
	key  ed25519.PrivateKey
}

// NewKey makes the key of a node from its seed, which must be secret and used for
// nothing else. Errors wrap trail.ErrNode.
func NewKey(node spiffeid.ID, seed [32]byte) (*Key, error) {
	name, err := Name(node)
	if err != nil {
		return nil, err
	}
	return &Key{name, ed25519.NewKeyFromSeed(seed[:])}, nil
}

// Verifier is the public half, as C2SP signed-note prints it: name+hash+base64.
func (k Key) Verifier() string { return verifier(k.name, k.public()) }

func (k Key) public() ed25519.PublicKey { return k.key.Public().(ed25519.PublicKey) }

// Format prints the public half, whatever the verb: the other never shows.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.Verifier()) }

// cosign returns the signature line for the text of a head.
func (k Key) cosign(text string, at time.Time) string {
	sig := keyHash(k.name, k.public())
	sig = binary.BigEndian.AppendUint64(sig, uint64(at.Unix()))
	sig = append(sig, ed25519.Sign(k.key, message(text, uint64(at.Unix())))...)
	return "— " + k.name + " " + base64.StdEncoding.EncodeToString(sig) + "\n"
}

// message is what an Ed25519 cosignature/v1 signs.
func message(text string, at uint64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text)
}

func keyHash(name string, pub ed25519.PublicKey) []byte {
	h := sha256.Sum256(slices.Concat([]byte(name), []byte{'\n', algCosignature}, pub))
	return h[:keyHashSize]
}

func verifier(name string, pub ed25519.PublicKey) string {
	return fmt.Sprintf("%s+%x+%s", name, keyHash(name, pub), base64.StdEncoding.EncodeToString(append([]byte{algCosignature}, pub...)))
}

// parseKey reads a node's key in its only spelling.
func parseKey(node spiffeid.ID, vkey string) (ed25519.PublicKey, error) {
	name, err := Name(node)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	part := strings.SplitN(vkey, "+", 3)
	b, err := base64.StdEncoding.DecodeString(part[len(part)-1])
	if err != nil || len(b) != 1+ed25519.PublicKeySize || verifier(name, b[1:]) != vkey {
		return nil, fmt.Errorf("%w: %q is not the witness key of %s", ErrKey, vkey, node)
	}
	return b[1:], nil
}

// CheckKey reports whether a verifier key may be a node's as a witness. Errors wrap ErrKey.
func CheckKey(node spiffeid.ID, vkey string) error {
	_, err := parseKey(node, vkey)
	return err
}

// Open verifies one line as a member's cosignature of a head's text, and returns when it
// was made by the witness's clock. Errors wrap ErrCosignature or ErrKey.
func Open(text, line string, m Member) (time.Time, error) {
	pub, err := parseKey(m.ID, m.Key)
	if err != nil {
		return time.Time{}, err
	}
	name, _ := Name(m.ID)
	encoded, ok := strings.CutPrefix(line, "— "+name+" ")
	encoded, ended := strings.CutSuffix(encoded, "\n")
	sig, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !ok || !ended || err != nil || len(sig) != cosignatureSize || strings.Contains(encoded, "\r") || strings.Contains(encoded, "\n") {
		return time.Time{}, fmt.Errorf("%w: not a line of %s", ErrCosignature, name)
	}
	at := binary.BigEndian.Uint64(sig[keyHashSize:])
	if at >= 1<<40 || !bytes.Equal(sig[:keyHashSize], keyHash(name, pub)) || !ed25519.Verify(pub, message(text, at), sig[keyHashSize+8:]) {
		return time.Time{}, fmt.Errorf("%w: %s", ErrCosignature, name)
	}
	return time.Unix(int64(at), 0).UTC(), nil
}
