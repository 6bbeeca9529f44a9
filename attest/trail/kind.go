package trail

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Class says how events of a kind become leaves.
type Class string

const (
	Each    Class = "each"    // one leaf for every event
	Counted Class = "counted" // one leaf for many events of a span of time
)

// Kind is a registered sort of leaf. Only this package makes one, so a leaf
// written with Append always has a registered kind.
type Kind struct {
	name  string
	class Class
	about string
}

// Name is what stands in the leaf.
func (k Kind) Name() string { return k.name }

// Class says whether every event has its leaf.
func (k Kind) Class() Class { return k.class }

// About says in one line what a leaf of this kind records.
func (k Kind) About() string { return k.about }

func (k Kind) String() string { return k.name }

// The trail's own kinds; nobody else writes them.
var (
	genesisKind = Kind{"genesis", Each, "whose trail this is, its key, and the head of the epoch before"}
	gapKind     = Kind{"gap", Each, "events or leaves that are known to be missing"}
	openKind    = Kind{"trail.open", Each, "a store began to feed this trail"}
)

// The kinds of the other packages. A new kind is added here first.
var (
	NodeStart         = Kind{"node.start", Each, "the sidecar started"}
	NodeStop          = Kind{"node.stop", Each, "the sidecar stopped in good order"}
	IdentitySVID      = Kind{"identity.svid", Each, "this node received an SVID"}
	IdentityEpoch     = Kind{"identity.epoch", Each, "this node received or began an epoch"}
	IdentityTrust     = Kind{"identity.trust", Each, "a region's trust record was accepted or refused"}
	WorkloadSVID      = Kind{"workload.svid", Each, "a local process was given a workload's SVID"}
	IssuerAttest      = Kind{"issuer.attest", Each, "the issuer judged a node's evidence"}
	IssuerIssue       = Kind{"issuer.issue", Each, "the issuer signed an SVID, an epoch certificate or an endorsement"}
	IssuerRefuse      = Kind{"issuer.refuse", Each, "the issuer refused to sign"}
	AuthorityPublish  = Kind{"authority.publish", Each, "the authority signed an object"}
	AuthorityEpoch    = Kind{"authority.epoch", Each, "the authority gave out an epoch number"}
	AuthorityConflict = Kind{"authority.conflict", Each, "two objects of one slot and version met; winner and loser"}
	PolicyActivate    = Kind{"policy.activate", Each, "a policy generation became the enforced one"}
	PolicyRefuse      = Kind{"policy.refuse", Each, "a policy record was not accepted"}
	DecisionDeny      = Kind{"decision.deny", Each, "something was denied, with level and rule"}
	DecisionAllow     = Kind{"decision.allow", Counted, "connections and requests that were allowed"}
	StateOut          = Kind{"state.out", Each, "a record this node signed: sequence and digest"}
	StateIn           = Kind{"state.in", Counted, "records of others that were applied"}
	StateRefuse       = Kind{"state.refuse", Each, "a record that was refused, with the rule"}
	PeerFinding       = Kind{"peer.finding", Each, "evidence against an identity was verified"}
	PeerStanding      = Kind{"peer.standing", Each, "an identity's standing changed"}
	PeerRelease       = Kind{"peer.release", Each, "the authority released or revoked an identity"}
	AdminAction       = Kind{"admin.action", Each, "someone acted through the control API"}
	Segment           = Kind{"segment", Counted, "the digest of a file of many decisions"}
)

var kinds = []Kind{
	genesisKind, gapKind, openKind, NodeStart, NodeStop, IdentitySVID, IdentityEpoch, IdentityTrust, WorkloadSVID,
	IssuerAttest, IssuerIssue, IssuerRefuse, AuthorityPublish, AuthorityEpoch, AuthorityConflict,
	PolicyActivate, PolicyRefuse, DecisionDeny, DecisionAllow, StateOut, StateIn, StateRefuse,
	PeerFinding, PeerStanding, PeerRelease, AdminAction, Segment,
}

// Kinds returns the registry, in the order of the names.
func Kinds() []Kind {
	return slices.SortedFunc(slices.Values(kinds), func(a, b Kind) int { return strings.Compare(a.name, b.name) })
}

// LookupKind finds a registered kind by its name. A trail of a newer version
// may hold kinds that are not registered here; they verify all the same.
func LookupKind(name string) (Kind, bool) {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.name == name })
	if i < 0 {
		return Kind{}, false
	}
	return kinds[i], true
}

// Append records an event in the transaction that makes it true. body is
// written as deterministic CBOR; use text keys, an auditor reads them. Keep it
// under some 400 bytes and put digests of what is larger. On an error the
// caller must let the transaction fail: not recorded, not done.
func Append(tx *store.Tx, kind Kind, body any) error {
	if kind.name == "" {
		return fmt.Errorf("%w: a leaf without a kind", ErrLeaf)
	}
	b, err := statement.Marshal(body)
	if err != nil {
		return fmt.Errorf("leaf %s: %w", kind, err)
	}
	return tx.Leaf(kind.name, b)
}
