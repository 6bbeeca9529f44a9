package app

import (
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// holdings is everything issued, as of one moment. It is never changed.
type holdings struct {
	agent       *x509svid.SVID
	node        *x509svid.SVID
	workloads   []workload
	entries     []spire.Entry
	class       string
	epoch       []byte // certificate of the epoch the authority gave, DER
	spare       []byte // of the one after
	endorsement []byte
	tpmEpoch    uint64 // the TPM's epoch counter when the spare was given: higher means it is spent
	inUse       uint64 // the epoch this node writes in; 0: none yet
	at          time.Time
}

// workload is one local identity and who may have it.
type workload struct {
	svid      *x509svid.SVID
	entry     string // ID of its registration entry
	selectors []string
	hint      string
}

// identities returns what a process with these selectors may have.
func (h holdings) identities(selectors []string) (out []workload) {
	for _, w := range h.workloads {
		if !slices.ContainsFunc(w.selectors, func(s string) bool { return !slices.Contains(selectors, s) }) {
			out = append(out, w)
		}
	}
	return out
}

// of returns the SVID of a workload identity of this node.
func (h holdings) of(id spiffeid.ID) (*x509svid.SVID, bool) {
	for _, w := range h.workloads {
		if w.svid.ID == id {
			return w.svid, true
		}
	}
	return nil, false
}
