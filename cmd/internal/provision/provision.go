// Package provision makes what a fleet begins with: the keys of its global
// authority and of each region, and the first things signed with them. It works on
// files alone, so that a global key never has to touch a network.
//
// # Folders
//
// A global key holder has one, and so has each region:
//
//	global.key.pem          signs trust records and delegations; keep it offline
//	global.pem              its public half, for trust.global_keys of every node
//	policy/                 the shipped global policy, to be changed and signed
//
//	issuer/                 the region's roots, for issuer.keys
//	authority/              the region's authority key, for authority.keys
//	policy.key.pem          signs the region's policy
//	policy/                 the shipped regional policy, to be changed and signed
//	<region>.draft          its first trust record, which nobody has signed yet
//
//	approver.key.pem        approves releases from quarantine; its holder keeps it
//	approver.pem            its public half, for the region's trust record
//
// What always holds: a key or a folder of policy that is there is never replaced,
// so everything here may be run again.
package provision

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// The names in the folders.
const (
	GlobalKey    = "global.key.pem"
	GlobalPublic = "global.pem"
	IssuerDir    = "issuer"
	AuthorityDir = "authority"
	PolicyKey    = "policy.key.pem"
	PolicyDir    = "policy"

	ApproverKey    = "approver.key.pem"
	ApproverPublic = "approver.pem"
)

// clockSlop makes what is signed valid at once, also on a clock that is set back.
const clockSlop = time.Hour

// ErrOtherRegion means a folder holds the keys of another trust domain. It is left as it
// is.
var ErrOtherRegion = errors.New("the folder holds the keys of another region: give each region a folder of its own")

// Validity is how long something signed counts.
type Validity struct{ From, To time.Time }

// ValidFor begins an hour ago and lasts for span from now.
func ValidFor(span time.Duration) Validity {
	now := time.Now().Truncate(time.Second)
	return Validity{now.Add(-clockSlop), now.Add(span)}
}

// Global opens the global authority's key in dir, making what is missing, and
// writes its public half beside it.
func Global(dir string) (*ecdsa.PrivateKey, error) {
	return KeyPair(dir, GlobalKey, GlobalPublic)
}

// KeyPair opens the key in a file of dir, making what is missing, and writes its public half
// beside it.
func KeyPair(dir, private, public string) (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := keyfile.Open(filepath.Join(dir, private))
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return key, WriteFile(filepath.Join(dir, public), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

// Keys are a region's.
type Keys struct {
	Roots     []*x509.Certificate // that SVIDs lead to
	Records   *epoch.Root
	Authority *authority.Key
	Policy    *ecdsa.PrivateKey
}

// OpenKeys opens a region's keys, making those that are missing: the roots in one
// folder, the authority's key in another, the policy key in a file. With anchors,
// which are somebody else's, no SVID root is made.
func OpenKeys(td spiffeid.TrustDomain, issuerDir, authorityDir, policyKey string, anchors ...*x509.Certificate) (k Keys, err error) {
	for _, dir := range []string{issuerDir, authorityDir, filepath.Dir(policyKey)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return k, err
		}
	}
	if k.Roots = anchors; len(anchors) == 0 {
		ca, err := openCA(td, issuerDir)
		if err != nil {
			return k, err
		}
		k.Roots = []*x509.Certificate{ca.Certificate()}
	}
	if k.Records, err = openRecordRoot(td, issuerDir); err != nil {
		return k, err
	}
	if k.Authority, err = authority.OpenKey(authorityDir); err != nil {
		return k, err
	}
	k.Policy, err = keyfile.Open(policyKey)
	return k, err
}

// OpenRoots opens the roots of one more issuer, making those that are missing. Each
// issuer of a region has its own; the trust record names all.
func OpenRoots(td spiffeid.TrustDomain, dir string) (svid, records *x509.Certificate, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	ca, err := openCA(td, dir)
	if err != nil {
		return nil, nil, err
	}
	root, err := openRecordRoot(td, dir)
	if err != nil {
		return nil, nil, err
	}
	return ca.Certificate(), root.Certificate(), nil
}

func openCA(td spiffeid.TrustDomain, dir string) (*issuer.CA, error) {
	ca, err := issuer.LoadCA(dir)
	switch {
	case err == nil && ca.TrustDomain() != td:
		return nil, fmt.Errorf("%w: %s is of %s, not %s", ErrOtherRegion, dir, ca.TrustDomain(), td)
	case !errors.Is(err, issuer.ErrNoCA):
		return ca, err
	}
	if ca, err = issuer.NewCA(td, time.Now()); err != nil {
		return nil, err
	}
	return ca, ca.Save(dir)
}

func openRecordRoot(td spiffeid.TrustDomain, dir string) (*epoch.Root, error) {
	root, err := epoch.LoadRoot(dir)
	switch {
	case err == nil && root.TrustDomain() != td:
		return nil, fmt.Errorf("%w: %s is of %s, not %s", ErrOtherRegion, dir, root.TrustDomain(), td)
	case !errors.Is(err, epoch.ErrNoRoot):
		return root, err
	}
	if root, err = epoch.NewRoot(td, time.Now()); err != nil {
		return nil, err
	}
	return root, root.Save(dir)
}

// Record is the region's first trust record, to be signed.
func (k Keys) Record(region string, td spiffeid.TrustDomain, v Validity) trust.Record {
	return trust.Record{
		Region: region, TrustDomain: td, Version: 1,
		X509Roots: k.Roots, RecordRoots: []*x509.Certificate{k.Records.Certificate()},
		AuthorityKey: k.Authority.Public(), PolicyKey: &k.Policy.PublicKey,
		NotBefore: v.From, NotAfter: v.To,
	}
}

// Region makes a region's folder and returns the path of its draft, which is
// written once. Anchors are as for OpenKeys.
func Region(dir, region string, td spiffeid.TrustDomain, v Validity, anchors ...*x509.Certificate) (draft string, err error) {
	k, err := OpenKeys(td, filepath.Join(dir, IssuerDir), filepath.Join(dir, AuthorityDir), filepath.Join(dir, PolicyKey), anchors...)
	if err != nil {
		return "", err
	}
	b, err := trust.Draft(k.Record(region, td, v))
	if err != nil {
		return "", err
	}
	draft = filepath.Join(dir, region+".draft")
	if _, err := os.Stat(draft); !errors.Is(err, fs.ErrNotExist) {
		return draft, err
	}
	return draft, WriteFile(draft, b, 0o644)
}

// CopyPolicy writes the shipped policy of a level into dir, unless dir is there.
func CopyPolicy(level, dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := builtin.Files(level)
	if err != nil {
		return err
	}
	return os.CopyFS(dir, files)
}

// WriteFile replaces a file with bytes that are on the disk first.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	err := durable.Replace(path, b, mode)
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err // it may name another file
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
