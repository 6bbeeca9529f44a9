package issuing

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// ErrRootMade means this issuer made its first roots, and may sign with them once the
// region's trust record names them.
var ErrRootMade = errors.New("this issuer made roots of its own: have the drafted trust record signed and imported, and start again")

// openCA loads the signing authorities, from the TPM where the configuration says so.
// The first roots of a region come with its trust record. Those of its further issuers,
// and those in a TPM, can only be made here: then it makes them, and a draft of the
// record that names them.
func (i *Role) openCA() (*issuer.CA, error) {
	c := i.Node.Issuer
	var in issuer.Device
	if c.Root == config.RootInTPM {
		var err error
		if in, err = i.Device(); err != nil {
			return nil, fmt.Errorf("issuer.root: %w", err)
		}
	}
	ca, err := issuer.OpenCA(string(c.Keys), in)
	if err == nil {
		return ca, i.own(ca.TrustDomain())
	}
	if !errors.Is(err, issuer.ErrNoCA) || c.Upstream != nil || in == nil && i.Branch.office != nil {
		return ca, err
	}
	draft, err := i.makeRoots(in)
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s", ErrRootMade, draft)
}

// own refuses keys in issuer.keys that are of another trust domain than the node.
func (i *Role) own(td spiffeid.TrustDomain) error {
	if want := i.Node.Node.TrustDomain(); td != want {
		return fmt.Errorf("%w: issuer.keys %s is of %s, not %s", provision.ErrOtherRegion, i.Node.Issuer.Keys, td, want)
	}
	return nil
}

// makeRoots makes what is missing in issuer.keys, and returns where the draft is. The
// draft is written first: roots that are there are never made again.
func (i *Role) makeRoots(in issuer.Device) (draft string, err error) {
	td, dir, now := i.Node.Node.TrustDomain(), string(i.Node.Issuer.Keys), time.Now()
	r, ok := i.Trust.Record(td)
	if !ok {
		return "", fmt.Errorf("%w: %s", trust.ErrUnknown, td)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	records, err := epoch.LoadRoot(dir)
	if errors.Is(err, epoch.ErrNoRoot) {
		if records, err = epoch.NewRoot(td, now); err == nil {
			err = records.Save(dir)
		}
	}
	if err != nil {
		return "", err
	}
	if err := i.own(records.TrustDomain()); err != nil {
		return "", err
	}
	ca, err := issuer.NewCAIn(in, td, now)
	if err != nil {
		return "", err
	}
	b, err := trust.Draft(next(r, ca, records))
	if err != nil {
		return "", err
	}
	draft = filepath.Join(dir, r.Region+".draft")
	if err := provision.WriteFile(draft, b, 0o644); err != nil {
		return "", err
	}
	return draft, ca.Save(dir)
}

// next is the record after r, with this issuer's roots.
func next(r trust.Record, ca *issuer.CA, records *epoch.Root) trust.Record {
	v := provision.ValidFor(r.NotAfter.Sub(r.NotBefore))
	r.Version, r.NotBefore, r.NotAfter = r.Version+1, v.From, v.To
	r.X509Roots = WithRoot(r.X509Roots, ca.Certificate())
	r.RecordRoots = WithRoot(r.RecordRoots, records.Certificate())
	return r
}

// WithRoot returns all with c, which may be among them already.
func WithRoot(all []*x509.Certificate, c *x509.Certificate) []*x509.Certificate {
	if slices.ContainsFunc(all, c.Equal) {
		return all
	}
	return append(slices.Clone(all), c)
}
