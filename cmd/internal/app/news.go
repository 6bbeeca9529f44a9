package app

import (
	"encoding/hex"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// An issuer tells in its node's record that it has other entries or trust records
// than before, or has tainted a root, and the nodes of its region then ask. The record
// only says when to ask: what an issuer gives is verified as ever, and a node that
// says so without being an issuer makes others ask no more often than every few seconds.

// issuerNews is what an issuer's record says of it, to be compared with what it said
// before.
type issuerNews struct{ entries, trust string }

// news is what this node's record says; empty where no issuer runs.
func (a *App) news() (n issuerNews) {
	s := a.issuer()
	if s == nil {
		return n
	}
	revision := s.Revision()
	for _, authority := range s.Authorities() {
		if authority.Tainted {
			revision = statement.Digest(append(revision[:], authority.ID...))
		}
	}
	return issuerNews{hex.EncodeToString(revision[:8]), a.trust.Fingerprint()}
}

// heardNews is what the records of issuers said last.
type heardNews map[spiffeid.ID]issuerNews

// hear takes in a node's record. It reports whether that says something new, which an issuer
// is then asked for, and which trust records it has if they are what is new.
func (h heardNews) hear(c replica.Change) (ask bool, trust string) {
	r, err := parseNodeRecord(nodeName, c.Value)
	if err != nil || !slices.Contains(r.Roles, roleIssuer) {
		return false, ""
	}
	before, known := h[c.Owner]
	now := issuerNews{r.Entries, r.Trust}
	h[c.Owner] = now
	if !known || before == now {
		return false, ""
	}
	if before.trust != now.trust {
		return true, now.trust
	}
	return true, ""
}
