package casefile

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// ErrCertificate means that a certificate in a leaf was not the node's, or not valid, when the
// leaf says that it came into use.
var ErrCertificate = errors.New("the certificate in the leaf does not verify")

// certificates verifies what nodes say they received: each certificate as of the time of its
// leaf, under a record of its region that the global keys signed. Without global keys none is
// judged.
func (k *checker) certificates() error {
	for i, p := range k.said {
		var breaks string
		var judge func(*checker, trail.Proven) (term, error)
		switch p.Kind {
		case trail.IdentitySVID.Name():
			judge, breaks = (*checker).svid, "who the node was from then on"
		case trail.IdentityEpoch.Name():
			judge, breaks = (*checker).epochCertificate, "what the node signed in epoch "+k.r.Facts[i].Field("epoch")
		default:
			continue
		}
		if len(k.t.keys) == 0 {
			k.r.Certificates.Unjudged++
			continue
		}
		valid, err := judge(k, p)
		//bailiwick:check TestFalseCertificates instead _, _ = err, breaks
		if err != nil {
			return &leafError{
				BadLeaf{Origin: p.Head.Origin, Index: p.Index, At: p.At, Breaks: breaks},
				fmt.Errorf("%w: %w", ErrCertificate, err),
			}
		}
		k.r.Certificates.Verified++
		k.terms[i] = valid
	}
	return nil
}

// Certificates counts those in the leaves of a case file.
type Certificates struct {
	Verified int `json:"verified"` // each for the time of its leaf
	Unjudged int `json:"unjudged"` // the trust file has no global keys
}

func (c Certificates) String() string {
	if c.Unjudged > 0 {
		return fmt.Sprintf("NOT JUDGED, %d of them: the trust file has no global_keys", c.Unjudged)
	}
	return fmt.Sprintf("%d, each valid when its leaf says, under the region's roots", c.Verified)
}

// term is how long a key speaks for somebody.
type term struct{ from, until time.Time }

// certificateBody is what leaves of both kinds have; they are read with fields of any version.
func certificateBody(p trail.Proven) (body map[string]any, err error) {
	return body, statement.Unmarshal(p.Body, &body)
}

// svid verifies the chain in a leaf as any peer of the node would have, and that the leaf tells
// of no other.
func (k *checker) svid(p trail.Proven) (term, error) {
	body, err := certificateBody(p)
	if err != nil {
		return term{}, err
	}
	list, _ := body["chain"].([]any)
	var chain []*x509.Certificate
	for _, one := range list {
		der, _ := one.([]byte)
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return term{}, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return term{}, errors.New("it has no chain")
	}
	node, _, err := trail.ParseOrigin(p.Head.Origin)
	if err != nil {
		return term{}, err
	}
	leaf := chain[0]
	theNode := func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if id != node {
			return fmt.Errorf("the trail is of %s", node)
		}
		return nil
	}
	err = k.under(node.TrustDomain(), func(r trust.Record) error {
		_, err := identity.VerifyPeer(chain, x509bundle.FromX509Authorities(r.TrustDomain, r.X509Roots), theNode, asOf(leaf, p.At))
		return err
	})
	if err != nil {
		return term{}, err
	}
	return term{leaf.NotBefore, leaf.NotAfter}, tells(body, map[string]any{
		"id": node.String(), "serial": leaf.SerialNumber.Text(16), "not_after": uint64(leaf.NotAfter.Unix()),
	})
}

// epochCertificate verifies the certificate in a leaf under the region's record roots.
func (k *checker) epochCertificate(p trail.Proven) (term, error) {
	body, err := certificateBody(p)
	if err != nil {
		return term{}, err
	}
	der, _ := body["certificate"].([]byte)
	node, _, err := trail.ParseOrigin(p.Head.Origin)
	if err != nil {
		return term{}, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return term{}, err
	}
	var c epoch.Certificate
	err = k.under(node.TrustDomain(), func(r trust.Record) (err error) {
		c, err = epoch.Verify(der, r.RecordRoots, r.TrustDomain, asOf(parsed, p.At))
		return err
	})
	if err != nil {
		return term{}, err
	}
	if c.ID != node {
		return term{}, fmt.Errorf("it is of %s, the trail of %s", c.ID, node)
	}
	return term{c.NotBefore, c.NotAfter}, tells(body, map[string]any{
		"epoch": c.Epoch, "class": c.Class, "not_after": uint64(c.NotAfter.Unix()),
	})
}

// tells holds what a leaf says of a certificate against the certificate.
func tells(body, is map[string]any) error {
	for name, want := range is {
		if body[name] != want {
			return fmt.Errorf("the leaf says %s %v, the certificate %v", name, body[name], want)
		}
	}
	return nil
}

// under tries the records of a region, oldest first, and returns the error under the newest
// where none will do.
func (k *checker) under(td spiffeid.TrustDomain, verify func(trust.Record) error) error {
	err := fmt.Errorf("no trust record of %s is in the case file", td)
	for _, r := range k.trusted {
		if r.TrustDomain != td {
			continue
		}
		if err = verify(r); err == nil {
			return nil
		}
	}
	return err
}

// records verifies every trust record of the case file, also those that nothing else needs.
// Without global keys none can be, and none is relied on.
func (k *checker) records() error {
	if len(k.t.keys) == 0 {
		if len(k.c.Policies)+len(k.c.Evidence) > 0 {
			return errors.Join(ErrKey, errors.New("the trust file has no global_keys to check policies and evidence with"))
		}
		return nil
	}
	for _, raw := range k.c.Trust {
		r, err := k.record(raw)
		if err != nil {
			return fmt.Errorf("trust record: %w", err)
		}
		k.trusted = append(k.trusted, r)
	}
	slices.SortStableFunc(k.trusted, func(a, b trust.Record) int { return a.NotBefore.Compare(b.NotBefore) })
	return nil
}

// asOf is the time of a leaf, for a certificate: what the clocks of issuer and node may be apart
// is no fault of either.
func asOf(c *x509.Certificate, at time.Time) time.Time {
	switch {
	case at.Before(c.NotBefore) && !at.Before(c.NotBefore.Add(-clockSkew)):
		return c.NotBefore
	case at.After(c.NotAfter) && !at.After(c.NotAfter.Add(clockSkew)):
		return c.NotAfter
	}
	return at
}
