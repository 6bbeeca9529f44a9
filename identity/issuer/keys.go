package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
)

const (
	caFile          = "svid-root.pem" // the first root; later ones are svid-root-<id>.pem
	authoritiesFile = "authorities.json"
	upstreamFile    = "upstream.json"
	maxAuthorities  = 64
)

// stateFile is authorities.json: which key file is in which state. Without it,
// svid-root.pem is the one active root.
type stateFile struct {
	Sequence    uint64           `json:"sequence"`
	Authorities []authorityState `json:"authorities"`
}

type authorityState struct {
	Kind     Kind      `json:"kind"`
	ID       string    `json:"id"`
	State    State     `json:"state"`
	Tainted  bool      `json:"tainted,omitempty"`
	NotAfter time.Time `json:"not_after"`
	File     string    `json:"file"`
}

// newX509 wraps a root as an authority.
func newX509(r *root.Root) authority {
	c := r.Certificate()
	id := hex.EncodeToString(c.SubjectKeyId)
	return authority{
		Authority: Authority{Kind: X509, ID: id, NotAfter: r.NotAfter(), Certificate: c, Nested: r.Nested()},
		file:      "svid-root-" + id + ".pem", root: r,
	}
}

// newJWT makes a key that signs JWT-SVIDs.
func newJWT(now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	return jwtAuthority(key, now.Add(JWTKeyLifetime).Truncate(time.Second))
}

func jwtAuthority(key *ecdsa.PrivateKey, expires time.Time) (authority, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return authority{}, err
	}
	sum := sha256.Sum256(der)
	id := hex.EncodeToString(sum[:16])
	return authority{Authority: Authority{Kind: JWT, ID: id, NotAfter: expires, Key: &key.PublicKey}, file: "jwt-" + id + ".pem", key: key}, nil
}

// save writes the key of a new authority.
func (a authority) save(dir string) error {
	path := filepath.Join(dir, a.file)
	if a.Kind == X509 {
		return a.root.Save(path)
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	return root.WriteNew(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// saveState makes dir say what now holds. Keys of new authorities are written
// before, those of gone ones removed after: a crash between leaves a key file too
// many, never one too few.
func (now *authorities) saveState(dir string, before *authorities) error {
	for _, a := range now.all {
		if before != nil && before.find(a.Kind, a.ID) >= 0 {
			continue
		}
		if err := a.save(dir); err != nil {
			return err
		}
	}
	s := stateFile{Sequence: now.sequence}
	for _, a := range now.all {
		s.Authorities = append(s.Authorities, authorityState{Kind: a.Kind, ID: a.ID, State: a.State, Tainted: a.Tainted, NotAfter: a.NotAfter, File: a.file})
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if now.upstream != nil && (before == nil || before.upstream == nil || !before.upstream.Equal(now.upstream)) {
		bundle, err := now.upstream.Marshal()
		if err != nil {
			return err
		}
		if err := root.Replace(filepath.Join(dir, upstreamFile), bundle); err != nil {
			return err
		}
	}
	if err := root.Replace(filepath.Join(dir, authoritiesFile), append(b, '\n')); err != nil {
		return err
	}
	if before == nil {
		return nil
	}
	for _, a := range before.all {
		if now.find(a.Kind, a.ID) < 0 {
			err = errors.Join(err, os.Remove(filepath.Join(dir, a.file)))
		}
	}
	return err
}

// loadState reads what saveState wrote, or a folder with svid-root.pem only.
func loadState(dir string, d Device) (spiffeid.TrustDomain, *authorities, error) {
	var td spiffeid.TrustDomain
	b, err := root.Read(filepath.Join(dir, authoritiesFile))
	if errors.Is(err, root.ErrMissing) {
		r, err := root.Open(filepath.Join(dir, caFile), d)
		if err != nil {
			return td, nil, err
		}
		a := newX509(r)
		a.State, a.file = Active, caFile
		td, err = trustDomainOf(a)
		return td, &authorities{all: []authority{a}}, err
	} else if err != nil {
		return td, nil, err
	}
	damaged := func(err error) error { return fmt.Errorf("%w: %s: %w", root.ErrDamaged, authoritiesFile, err) }
	var s stateFile
	if err := json.Unmarshal(b, &s); err != nil {
		return td, nil, damaged(err)
	}
	if len(s.Authorities) > maxAuthorities {
		return td, nil, damaged(fmt.Errorf("%d authorities", len(s.Authorities)))
	}
	out := &authorities{sequence: s.Sequence}
	for _, x := range s.Authorities {
		a, err := x.load(dir, d)
		if err != nil {
			return td, nil, err
		}
		if a.ID != x.ID {
			return td, nil, damaged(fmt.Errorf("%s holds %s, not %s", x.File, a.ID, x.ID))
		}
		a.State, a.Tainted, a.file = x.State, x.Tainted, x.File
		out.all = append(out.all, a)
	}
	active, ok := out.in(X509, Active)
	if !ok {
		return td, nil, damaged(errors.New("no active X509 authority"))
	}
	if td, err = trustDomainOf(active); err != nil {
		return td, nil, err
	}
	bundle, err := root.Read(filepath.Join(dir, upstreamFile))
	if errors.Is(err, root.ErrMissing) {
		return td, out, nil
	} else if err != nil {
		return td, nil, err
	}
	if out.upstream, err = spiffebundle.Parse(td, bundle); err != nil {
		return td, nil, fmt.Errorf("%w: %s: %w", root.ErrDamaged, upstreamFile, err)
	}
	return td, out, nil
}

func (x authorityState) load(dir string, d Device) (authority, error) {
	path := filepath.Join(dir, filepath.Base(x.File))
	switch x.Kind {
	case X509:
		r, err := root.Open(path, d)
		if err != nil {
			return authority{}, err
		}
		return newX509(r), nil
	case JWT:
		b, err := root.Read(path)
		if err != nil {
			return authority{}, err
		}
		key, err := parseKey(b)
		if err != nil {
			return authority{}, fmt.Errorf("%w: %s: %w", root.ErrDamaged, path, err)
		}
		return jwtAuthority(key, x.NotAfter)
	}
	return authority{}, fmt.Errorf("%w: %s: authority of kind %q", root.ErrDamaged, authoritiesFile, x.Kind)
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, errors.New("want one PRIVATE KEY block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("want a P-256 key")
	}
	return ec, nil
}

func trustDomainOf(a authority) (spiffeid.TrustDomain, error) {
	if uris := a.Certificate.URIs; len(uris) == 1 {
		if id, err := spiffeid.FromURI(uris[0]); err == nil && id.Path() == "" {
			return id.TrustDomain(), nil
		}
	}
	return spiffeid.TrustDomain{}, fmt.Errorf("%w: %s is not an SVID root", root.ErrDamaged, a.file)
}
