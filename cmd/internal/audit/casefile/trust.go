package casefile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// MaxTrust is the largest trust file, in bytes.
const MaxTrust = 4 << 20

// ErrTrust means that a trust file cannot be used.
var ErrTrust = errors.New("not a trust file")

// Trust is whom an auditor believes. It is a JSON file, kept by the auditor, and the
// one thing that does not come with what is verified.
type Trust struct {
	// GlobalKeys are the global authority's public keys, PEM; Threshold of them must
	// have signed a trust record.
	GlobalKeys []string `json:"global_keys"`
	Threshold  int      `json:"threshold"`

	// Trails are trails that were verified before. Their keys count without an
	// endorsement, and their heads must not have been another.
	Trails []Known `json:"trails,omitempty"`

	// Rosters are the hashes, in hex, of rosters that were held against those of a node that
	// the auditor believes: who the witnesses of heads are that name one of them.
	Rosters []string `json:"rosters,omitempty"`

	keys []*ecdsa.PublicKey
}

// Known is a trail as it was when it was verified.
type Known struct {
	Origin   string `json:"origin"`
	Verifier string `json:"verifier"`       // C2SP signed-note
	Head     string `json:"head,omitempty"` // the signed note
}

// ParseTrust reads a trust file. Errors wrap ErrTrust and name the field.
func ParseTrust(b []byte) (Trust, error) {
	var t Trust
	if len(b) > MaxTrust {
		return Trust{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTrust, len(b), MaxTrust)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return Trust{}, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Trust{}, fmt.Errorf("%w: something follows its end", ErrTrust)
	}
	var errs []error
	for i, text := range t.GlobalKeys {
		k, err := publicKey(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: global_keys[%d]: %w", ErrTrust, i, err))
		}
		t.keys = append(t.keys, k)
	}
	if len(t.GlobalKeys) > 0 && (t.Threshold < 1 || t.Threshold > len(t.GlobalKeys)) {
		errs = append(errs, fmt.Errorf("%w: threshold %d: want 1 to %d, the number of global_keys", ErrTrust, t.Threshold, len(t.GlobalKeys)))
	}
	if len(t.GlobalKeys) == 0 && len(t.Trails) == 0 {
		errs = append(errs, fmt.Errorf("%w: it names neither global_keys nor trails: nothing could be verified", ErrTrust))
	}
	for i, text := range t.Rosters {
		if b, err := hex.DecodeString(text); err != nil || len(b) != 32 {
			errs = append(errs, fmt.Errorf("%w: rosters[%d]: want 64 hex digits", ErrTrust, i))
		}
	}
	for i, k := range t.Trails {
		if err := k.check(); err != nil {
			errs = append(errs, fmt.Errorf("%w: trails[%d]: %w", ErrTrust, i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Trust{}, err
	}
	return t, nil
}

func (k Known) check() error {
	if _, err := trail.PKIX(k.Verifier); err != nil {
		return err
	}
	if k.Head == "" {
		return nil
	}
	c, err := trail.OpenCheckpoint([]byte(k.Head), k.Verifier)
	if err == nil && c.Origin != k.Origin {
		err = fmt.Errorf("its head is of %s, not of %s", c.Origin, k.Origin)
	}
	return err
}

func publicKey(text string) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("want a P-256 key, not %T", key)
	}
	return pub, nil
}

// NewTrust is a trust file's content from keys. Encode writes it.
func NewTrust(keys []*ecdsa.PublicKey, threshold int) (Trust, error) {
	t := Trust{Threshold: threshold, keys: keys, GlobalKeys: []string{}}
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return Trust{}, fmt.Errorf("%w: %w", ErrTrust, err)
		}
		t.GlobalKeys = append(t.GlobalKeys, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	return t, nil
}

// Encode is the file.
func (t Trust) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(t, "", "  ")
	return append(b, '\n'), err
}

// Known returns what was known of a trail before.
func (t Trust) Known(origin string) (Known, bool) {
	for _, k := range t.Trails {
		if k.Origin == origin {
			return k, true
		}
	}
	return Known{}, false
}

func (t Trust) knowsRoster(hash [32]byte) bool {
	return slices.Contains(t.Rosters, hex.EncodeToString(hash[:]))
}

// RememberRoster adds a roster.
func (t *Trust) RememberRoster(hash [32]byte) {
	if !t.knowsRoster(hash) {
		t.Rosters = append(t.Rosters, hex.EncodeToString(hash[:]))
	}
}

// Remember adds a trail that was verified, or replaces what was known of it.
func (t *Trust) Remember(k Known) {
	for i := range t.Trails {
		if t.Trails[i].Origin == k.Origin {
			t.Trails[i] = k
			return
		}
	}
	t.Trails = append(t.Trails, k)
}
