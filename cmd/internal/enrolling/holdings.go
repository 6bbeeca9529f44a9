package enrolling

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// Holdings is everything issued, as of one moment. It is never changed.
type Holdings struct {
	Node        *x509svid.SVID    // nil: none yet, or none any more
	Workloads   []Workload        // of this node
	JWTKeys     *jwtbundle.Bundle // of the region's issuers; nil: not known yet
	Class       string            // limits class
	Endorsement []byte            // of the TPM's attestation key, see package endorse; empty without one
	InUse       uint64            // the epoch this node writes in; 0: none yet
	At          time.Time         // when an issuer last gave something

	agent    *x509svid.SVID
	admitted time.Time // when the agent SVID came; zero: before this start
	renews   bool      // the agent SVID is renewed with itself: what this node attested with works once
	entries  []spire.Entry
	epoch    []byte // certificate of the epoch the authority gave, DER
	spare    []byte // of the one after
	tpmEpoch uint64 // the TPM's epoch counter when the spare was given: higher means it is spent
}

// Workload is one local identity and who may have it.
type Workload struct {
	SVID  *x509svid.SVID
	Entry string // ID of its registration entry
	Hint  string // which of several a process should take, in its entry's words

	selectors []string
}

// patience is how long SVIDs may wait for news of epochs, which the issuer may have to
// ask for far away: never so long that the node's own SVID ends meanwhile.
func (h Holdings) patience(now time.Time) time.Duration {
	if h.Node == nil {
		return enrolTimeout
	}
	return min(enrolTimeout, max(time.Second, h.Node.Certificates[0].NotAfter.Sub(now)/4))
}

// svids are all that are held, the node's first.
func (h Holdings) svids() (out []*x509svid.SVID) {
	for _, svid := range []*x509svid.SVID{h.Node, h.agent} {
		if svid != nil {
			out = append(out, svid)
		}
	}
	for _, w := range h.Workloads {
		out = append(out, w.SVID)
	}
	return out
}

// signedBy reports whether a root is in the way from an SVID up.
func signedBy(svid *x509svid.SVID, root *x509.Certificate) bool {
	return slices.ContainsFunc(svid.Certificates, func(c *x509.Certificate) bool { return c.CheckSignatureFrom(root) == nil })
}

// Identities returns what a process with these selectors may have.
func (h Holdings) Identities(shows func([]string) bool) (out []Workload) {
	for _, w := range h.Workloads {
		if shows(w.selectors) {
			out = append(out, w)
		}
	}
	return out
}

// Of returns the SVID of a workload identity of this node.
func (h Holdings) Of(id spiffeid.ID) (*x509svid.SVID, bool) {
	for _, w := range h.Workloads {
		if w.SVID.ID == id {
			return w.SVID, true
		}
	}
	return nil, false
}
