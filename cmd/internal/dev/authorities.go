package dev

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

const (
	signedFor = 365 * 24 * time.Hour // how long what is signed here is valid
	clockSlop = time.Hour            // so that it is valid at once, also on a clock that is set back
	author    = "spiffe://dev.example/global"
)

// The files of the authorities, below .dev.
func (f *Fleet) globalDir() string             { return filepath.Join(f.Dir, "global") }
func (f *Fleet) regionDir(label string) string { return filepath.Join(f.Dir, "regions", label) }
func (f *Fleet) globalKey() string             { return filepath.Join(f.globalDir(), "global.pem") }
func (f *Fleet) globalPolicy() string          { return filepath.Join(f.globalDir(), "global.policy") }
func (f *Fleet) regionPolicy(l string) string  { return filepath.Join(f.regionDir(l), "region.policy") }
func (f *Fleet) trustRecord(l string) string   { return filepath.Join(f.regionDir(l), l+".trust") }
func (f *Fleet) entriesFile(l string) string   { return filepath.Join(f.regionDir(l), "entries.yaml") }
func (f *Fleet) issuerKeys(l string) string    { return filepath.Join(f.regionDir(l), "keys") }
func (f *Fleet) authorityKeys(l string) string { return filepath.Join(f.regionDir(l), "authority") }

// provisionGlobal makes the global authority's key and its policy, and returns
// the key. A real fleet keeps it offline.
func (f *Fleet) provisionGlobal() (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(f.globalDir(), 0o700); err != nil {
		return nil, err
	}
	key, err := keyfile.Open(filepath.Join(f.globalDir(), "global.key.pem"))
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	err = writeFile(f.globalKey(), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644)
	if err != nil {
		return nil, err
	}
	level := builtin.Dev(f.Regions[0].Label)[0]
	return key, once(f.globalPolicy(), func() ([]byte, error) {
		return signPolicy(key, level, bundle.ScopeMesh)
	})
}

// provisionRegion makes a region's roots and keys, has the global authority admit
// them, and signs its policy.
func (f *Fleet) provisionRegion(r Region, global *ecdsa.PrivateKey) error {
	td, err := spiffeid.TrustDomainFromString(r.TrustDomain)
	if err != nil {
		return err
	}
	for _, dir := range []string{f.issuerKeys(r.Label), f.authorityKeys(r.Label)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	ca, err := openCA(f.issuerKeys(r.Label), td)
	if err != nil {
		return err
	}
	root, err := openRoot(f.issuerKeys(r.Label), td)
	if err != nil {
		return err
	}
	decides, err := authority.OpenKey(f.authorityKeys(r.Label))
	if err != nil {
		return err
	}
	rules, err := keyfile.Open(filepath.Join(f.regionDir(r.Label), "policy.key.pem"))
	if err != nil {
		return err
	}
	err = once(f.trustRecord(r.Label), func() ([]byte, error) {
		from := time.Now().Add(-clockSlop).Truncate(time.Second)
		return trust.Sign(trust.Record{
			Region: r.Label, TrustDomain: td, Version: 1,
			X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{root.Certificate()},
			AuthorityKey: decides.Public(), PolicyKey: &rules.PublicKey,
			NotBefore: from, NotAfter: from.Add(signedFor),
		}, global)
	})
	if err != nil {
		return err
	}
	return once(f.regionPolicy(r.Label), func() ([]byte, error) {
		level := builtin.Dev(r.Label)[1]
		delegation, err := delegate(global, rules, level, r.TrustDomain)
		if err != nil {
			return nil, err
		}
		return signPolicy(rules, level, r.TrustDomain, delegation)
	})
}

// delegate has the global authority certify a region's policy key, with the
// ceiling that the level was written for.
func delegate(global, rules *ecdsa.PrivateKey, l policy.Level, scope string) ([]byte, error) {
	public, err := x509.MarshalPKIXPublicKey(&rules.PublicKey)
	if err != nil {
		return nil, err
	}
	from := time.Now().Add(-clockSlop)
	return bundle.Certify(global, bundle.Delegation{
		Level: l.Name, Scope: scope, Key: public, NotBefore: from.Unix(), NotAfter: from.Add(signedFor).Unix(),
		Kinds: l.Delegation.Kinds, Regions: l.Delegation.Regions, Services: l.Delegation.Services,
	})
}

// signPolicy puts a level into a signed policy file.
func signPolicy(key *ecdsa.PrivateKey, l policy.Level, scope string, delegations ...[]byte) ([]byte, error) {
	content, err := bundle.Encode(l.Modules, l.Data)
	if err != nil {
		return nil, err
	}
	r := bundle.Record{
		Level: l.Name, Scope: scope, Version: 1, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		Author: author, Change: "bailiwick dev", Requires: bundle.Features, Delegations: delegations,
	}
	if scope != bundle.ScopeMesh {
		r.Parent = bundle.Parent{Scope: bundle.ScopeMesh, Version: 1}
	}
	from := time.Now().Add(-clockSlop)
	r.NotBefore, r.NotAfter = from.Unix(), from.Add(signedFor).Unix()
	signed, err := bundle.Sign(key, r, content)
	if err != nil {
		return nil, err
	}
	return bundle.Join(signed, content)
}

func openCA(dir string, td spiffeid.TrustDomain) (*issuer.CA, error) {
	ca, err := issuer.LoadCA(dir)
	if !errors.Is(err, issuer.ErrNoCA) {
		return ca, err
	}
	if ca, err = issuer.NewCA(td, time.Now()); err != nil {
		return nil, err
	}
	return ca, ca.Save(dir)
}

func openRoot(dir string, td spiffeid.TrustDomain) (*epoch.Root, error) {
	root, err := epoch.LoadRoot(dir)
	if !errors.Is(err, epoch.ErrNoRoot) {
		return root, err
	}
	if root, err = epoch.NewRoot(td, time.Now()); err != nil {
		return nil, err
	}
	return root, root.Save(dir)
}

// once writes a file that is not there yet.
func once(path string, content func() ([]byte, error)) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := content()
	if err != nil {
		return err
	}
	return writeFile(path, b, 0o644)
}
