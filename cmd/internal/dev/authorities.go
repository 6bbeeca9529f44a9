package dev

import (
	"crypto/ecdsa"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

const (
	signedFor = 365 * 24 * time.Hour // how long what is signed here is valid
	author    = "spiffe://dev.example/global"
)

// The files of the authorities, below .dev.
func (f *Fleet) globalDir() string             { return filepath.Join(f.Dir, "global") }
func (f *Fleet) regionDir(label string) string { return filepath.Join(f.Dir, "regions", label) }
func (f *Fleet) globalKey() string             { return filepath.Join(f.globalDir(), provision.GlobalPublic) }
func (f *Fleet) globalPolicy() string          { return filepath.Join(f.globalDir(), "global.policy") }
func (f *Fleet) regionPolicy(l string) string  { return filepath.Join(f.regionDir(l), "region.policy") }
func (f *Fleet) trustRecord(l string) string   { return filepath.Join(f.regionDir(l), l+".trust") }
func (f *Fleet) entriesFile(l string) string   { return filepath.Join(f.regionDir(l), "entries.yaml") }
func (f *Fleet) authorityKeys(l string) string { return filepath.Join(f.regionDir(l), "authority") }

// issuerKeys is the folder of one issuer's roots.
func (f *Fleet) issuerKeys(n Node) string {
	if n.First {
		return filepath.Join(f.regionDir(n.Region), "keys")
	}
	return filepath.Join(f.regionDir(n.Region), "keys-"+n.Name)
}

// provisionGlobal makes the global authority's key and its policy, and returns
// the key. A real fleet keeps it offline.
func (f *Fleet) provisionGlobal() (*ecdsa.PrivateKey, error) {
	key, err := provision.Global(f.globalDir())
	if err != nil {
		return nil, err
	}
	return key, once(f.globalPolicy(), func() ([]byte, error) {
		return signPolicy(key, builtin.Dev(f.Regions[0].Label)[0], bundle.ScopeMesh)
	})
}

// provisionRegion makes a region's roots and keys, has the global authority admit
// them, and signs its policy.
func (f *Fleet) provisionRegion(r Region, global *ecdsa.PrivateKey) error {
	td, err := spiffeid.TrustDomainFromString(r.TrustDomain)
	if err != nil {
		return err
	}
	keys, err := provision.OpenKeys(td, f.issuerKeys(f.first(r.Label)), f.authorityKeys(r.Label), filepath.Join(f.regionDir(r.Label), provision.PolicyKey))
	if err != nil {
		return err
	}
	record := keys.Record(r.Label, td, provision.ValidFor(signedFor))
	for _, n := range f.issuers(r.Label) {
		if n.First {
			continue
		}
		svid, records, err := provision.OpenRoots(td, f.issuerKeys(n))
		if err != nil {
			return err
		}
		record.X509Roots, record.RecordRoots = append(record.X509Roots, svid), append(record.RecordRoots, records)
	}
	err = once(f.trustRecord(r.Label), func() ([]byte, error) { return trust.Sign(record, global) })
	if err != nil {
		return err
	}
	return once(f.regionPolicy(r.Label), func() ([]byte, error) {
		level := builtin.Dev(r.Label)[1]
		delegation, err := provision.Delegate(global, record, level.Delegation, provision.ValidFor(signedFor))
		if err != nil {
			return nil, err
		}
		return signPolicy(keys.Policy, level, r.TrustDomain, delegation)
	})
}

// signPolicy puts a level into a signed policy file.
func signPolicy(key *ecdsa.PrivateKey, l policy.Level, scope string, delegations ...[]byte) ([]byte, error) {
	content, err := bundle.Content{Modules: l.Modules, Data: l.Data, Schemas: l.Schemas}.Encode()
	if err != nil {
		return nil, err
	}
	p := provision.Policy{Level: l.Name, Scope: scope, Version: 1, Author: author, Change: "bailiwick dev", Content: content, Delegations: delegations}
	if scope != bundle.ScopeMesh {
		p.Parent = bundle.Parent{Scope: bundle.ScopeMesh, Version: 1}
	}
	return p.Sign(key, provision.ValidFor(signedFor))
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
