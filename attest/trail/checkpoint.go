package trail

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// maxCheckpoint bounds a head with many cosignatures.
const maxCheckpoint = 64 << 10

// algECDSA is the C2SP signed-note signature type of ECDSA over SHA-256.
const algECDSA = 0x02

var (
	// ErrCheckpoint means a head is malformed, or not signed by the key it had to
	// be signed by, or is another trail's. Nothing under it is proven.
	ErrCheckpoint = errors.New("the head is not one this trail's key signed")

	// ErrNode means an ID that is no node's: it must be
	// spiffe://<td>/node/<name> or spiffe://<td>/zone/<zone>/node/<name>.
	ErrNode = errors.New("not a node's SPIFFE ID")

	// ErrKey means a trail key that is not ECDSA P-256, or a verifier key in
	// another form than VerifierKey prints.
	ErrKey = errors.New("trail keys are ECDSA P-256")
)

// Checkpoint is a signed head: the tree of the first Size leaves has this Root.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   [32]byte
	Roster [32]byte // of the witnesses it asks for: see package witness; zero where it names none
	Raw    []byte   // the signed note
}

// Text is what is signed: the lines above the signatures.
func (c Checkpoint) Text() string {
	text := string(flog.Checkpoint{Origin: c.Origin, Size: c.Size, Hash: c.Root[:]}.Marshal())
	if c.Roster != ([32]byte{}) {
		text += rosterLine + hex.EncodeToString(c.Roster[:]) + "\n"
	}
	return text
}

// rosterLine begins the one extension line a head may have.
const rosterLine = "roster "

// Origin is the name of a node's trail in one epoch. Node names are unique in a
// trust domain or, with zones, in a zone: the zone is part of the name.
func Origin(node spiffeid.ID, epoch uint64) (string, error) {
	seg := strings.Split(strings.TrimPrefix(node.Path(), "/"), "/")
	var name string
	switch {
	case len(seg) == 2 && seg[0] == "node":
		name = seg[1]
	case len(seg) == 4 && seg[0] == "zone" && seg[2] == "node":
		name = seg[1] + "/" + seg[3]
	default:
		return "", fmt.Errorf("%w: %q", ErrNode, node)
	}
	return fmt.Sprintf("%s/trail/%s/%d", node.TrustDomain().Name(), name, epoch), nil
}

// ParseOrigin is the reverse of Origin. Errors wrap ErrNode: it is not a name that
// Origin gives.
func ParseOrigin(origin string) (node spiffeid.ID, epoch uint64, err error) {
	bad := fmt.Errorf("%w: %q is no trail's origin", ErrNode, origin)
	seg := strings.Split(origin, "/")
	if len(seg) != 4 && len(seg) != 5 || seg[1] != "trail" {
		return node, 0, bad
	}
	td, err := spiffeid.TrustDomainFromString(seg[0])
	if err != nil {
		return node, 0, bad
	}
	path := []string{"node", seg[2]}
	if len(seg) == 5 {
		path = []string{"zone", seg[2], "node", seg[3]}
	}
	if node, err = spiffeid.FromSegments(td, path...); err != nil {
		return node, 0, bad
	}
	if epoch, err = strconv.ParseUint(seg[len(seg)-1], 10, 64); err != nil {
		return node, 0, bad
	}
	if again, err := Origin(node, epoch); err != nil || again != origin {
		return node, 0, bad
	}
	return node, epoch, nil
}

// VerifierKey prints the public half of a trail key in the form of C2SP
// signed-note, for Verify, OpenCheckpoint and other tools: name+hash+base64.
func VerifierKey(origin string, pub crypto.PublicKey) (string, error) {
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return "", fmt.Errorf("%w, not %T", ErrKey, pub)
	}
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	return fmt.Sprintf("%s+%08x+%s", origin, keyHash(der), base64.StdEncoding.EncodeToString(append([]byte{algECDSA}, der...))), nil
}

func keyHash(der []byte) uint32 {
	h := sha256.Sum256(der)
	return binary.BigEndian.Uint32(h[:])
}

// newVerifier accepts P-256 only, in the one spelling VerifierKey gives.
func newVerifier(vkey string) (note.Verifier, error) {
	v, err := fnote.NewECDSAVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	pub, err := x509.ParsePKIXPublicKey(key[1:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if again, err := VerifierKey(v.Name(), pub); err != nil {
		return nil, err
	} else if again != vkey {
		return nil, fmt.Errorf("%w: %q is spelled another way than %q", ErrKey, vkey, again)
	}
	return v, nil
}

// PKIX returns the public key in a key as VerifierKey prints it, in PKIX DER.
// Errors wrap ErrKey.
func PKIX(vkey string) ([]byte, error) {
	if _, err := newVerifier(vkey); err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key[1:], nil // after the byte that names the algorithm
}

// OpenCheckpoint reads a signed head and checks its signature with a key as
// VerifierKey prints it. Errors wrap ErrCheckpoint or ErrKey.
func OpenCheckpoint(raw []byte, vkey string) (Checkpoint, error) {
	v, err := newVerifier(vkey)
	if err != nil {
		return Checkpoint{}, err
	}
	return openCheckpoint(raw, v)
}

func openCheckpoint(raw []byte, v note.Verifier) (Checkpoint, error) {
	if len(raw) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes, at most %d", ErrCheckpoint, len(raw), maxCheckpoint)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	for _, s := range append(n.Sigs, n.UnverifiedSigs...) {
		// Base64 has spare bits at its end: two spellings of one signature.
		if b, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil || len(b) == 0 {
			return Checkpoint{}, fmt.Errorf("%w: signature of %s is not strict base64", ErrCheckpoint, s.Name)
		}
	}
	c, err := parseHead(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("%w: it is of %q, not %q", ErrCheckpoint, c.Origin, v.Name())
	}
	c.Raw = raw
	return c, nil
}

// parseHead reads the text above the signatures, which nobody has verified yet.
func parseHead(text string) (Checkpoint, error) {
	var f flog.Checkpoint
	rest, err := f.Unmarshal([]byte(text))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if len(f.Hash) != 32 {
		return Checkpoint{}, fmt.Errorf("%w: a root of %d bytes", ErrCheckpoint, len(f.Hash))
	}
	c := Checkpoint{Origin: f.Origin, Size: f.Size, Root: [32]byte(f.Hash)}
	if named, ok := strings.CutPrefix(strings.TrimSuffix(string(rest), "\n"), rosterLine); ok {
		b, err := hex.DecodeString(named)
		if err != nil || len(b) != 32 {
			return Checkpoint{}, fmt.Errorf("%w: its roster is not named by 64 hex digits", ErrCheckpoint)
		}
		c.Roster = [32]byte(b)
	}
	if c.Text() != text {
		return Checkpoint{}, fmt.Errorf("%w: not the three lines of a head and, after them, one that names a roster", ErrCheckpoint)
	}
	return c, nil
}

// PeekCheckpoint reads a head without its key, to learn whose it claims to be: nothing of
// it is verified. Errors wrap ErrCheckpoint.
func PeekCheckpoint(raw []byte) (Checkpoint, error) {
	i := bytes.Index(raw, []byte("\n\n"))
	if i < 0 || len(raw) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: no signature in %d bytes", ErrCheckpoint, len(raw))
	}
	return parseHead(string(raw[:i+1]))
}

// Fork reports whether two heads, both signed by the key, have one size and
// different roots: proof that the key's owner kept two histories. An error means
// that they prove nothing either way.
func Fork(a, b []byte, vkey string) (bool, error) {
	ca, err := OpenCheckpoint(a, vkey)
	if err != nil {
		return false, fmt.Errorf("first head: %w", err)
	}
	cb, err := OpenCheckpoint(b, vkey)
	if err != nil {
		return false, fmt.Errorf("second head: %w", err)
	}
	return ca.Size == cb.Size && ca.Root != cb.Root, nil
}

// signer makes heads with the trail key. It is a note.Signer.
type signer struct {
	origin   string
	key      crypto.Signer
	hash     uint32
	vkey     string
	verifier note.Verifier
}

func newSigner(origin string, key crypto.Signer) (*signer, error) {
	if key == nil {
		return nil, fmt.Errorf("%w: no key given", ErrKey)
	}
	vkey, err := VerifierKey(origin, key.Public())
	if err != nil {
		return nil, err
	}
	v, err := newVerifier(vkey)
	if err != nil {
		return nil, err
	}
	return &signer{origin: origin, key: key, hash: v.KeyHash(), vkey: vkey, verifier: v}, nil
}

func (s *signer) Name() string    { return s.origin }
func (s *signer) KeyHash() uint32 { return s.hash }

func (s *signer) Sign(msg []byte) ([]byte, error) {
	d := sha256.Sum256(msg)
	return s.key.Sign(rand.Reader, d[:], crypto.SHA256)
}

// head signs a head and reads it back: what our own verifier would refuse,
// because the key is failing, is never published.
func (s *signer) head(size uint64, root, roster [32]byte) (Checkpoint, error) {
	text := Checkpoint{Origin: s.origin, Size: size, Root: root, Roster: roster}.Text()
	raw, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	c, err := openCheckpoint(raw, s.verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	return c, nil
}
