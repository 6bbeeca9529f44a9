package trail

import (
	"slices"
	"strings"
)

// Class says how events of a kind become leaves.
type Class string

const (
	Each    Class = "each"    // one leaf for every event
	Counted Class = "counted" // one leaf for many events of a span of time
)

// Unrecorded says what becomes of an event whose leaf cannot be written.
type Unrecorded string

const (
	// Closed events do not happen: Append fails, and with it the transaction.
	Closed Unrecorded = "closed"
	// Gapped events happen all the same, because refusing them would be worse or they are refusals
	// themselves. They are counted, and a gap leaf tells how many they were as soon as there can be one.
	Gapped Unrecorded = "gap"
)

// Kind is a registered sort of leaf. Only this package makes one, so a leaf
// written with Append always has a registered kind.
type Kind struct {
	name  string
	class Class
	fails Unrecorded
	about string
}

// Name is what stands in the leaf.
func (k Kind) Name() string { return k.name }

// Class says whether every event has its leaf.
func (k Kind) Class() Class { return k.class }

// Unrecorded says what becomes of an event of this kind that cannot be recorded.
func (k Kind) Unrecorded() Unrecorded { return k.fails }

// About says in one line what a leaf of this kind records.
func (k Kind) About() string { return k.about }

// Routine reports whether leaves of this kind wait a few seconds for others, while they keep coming.
func (k Kind) Routine() bool { return routine[k.name] }

func (k Kind) String() string { return k.name }

// The trail's own kinds; nobody else writes them.
var (
	genesisKind = Kind{"genesis", Each, Closed, "whose trail this is, its key, and the head of the epoch before"}
	gapKind     = Kind{"gap", Each, Gapped, "events or leaves that are known to be missing"}
	openKind    = Kind{"trail.open", Each, Closed, "a store began to feed this trail"}
)

// The kinds of the other packages. A new kind is added here first.
var (
	NodeStart         = Kind{"node.start", Each, Gapped, "the sidecar started"}
	NodeStop          = Kind{"node.stop", Each, Gapped, "the sidecar stopped in good order"}
	IdentitySVID      = Kind{"identity.svid", Each, Closed, "this node received an SVID"}
	IdentityEpoch     = Kind{"identity.epoch", Each, Closed, "this node received or began an epoch"}
	IdentityMachine   = Kind{"identity.machine", Each, Closed, "this node's TPM was cleared or replaced, and its keys made anew"}
	IdentityAttest    = Kind{"identity.attest", Each, Gapped, "what this node makes of a machine's evidence: its first, and every change"}
	IdentityTrust     = Kind{"identity.trust", Each, Closed, "a region's trust record came into force here"}
	IssuerAttest      = Kind{"issuer.attest", Each, Closed, "the issuer judged a node's evidence"}
	IssuerIssue       = Kind{"issuer.issue", Each, Closed, "the issuer signed an SVID, an epoch certificate or an endorsement"}
	IssuerRefuse      = Kind{"issuer.refuse", Each, Gapped, "the issuer refused to sign"}
	AuthorityPublish  = Kind{"authority.publish", Each, Closed, "the authority signed an object"}
	AuthorityEpoch    = Kind{"authority.epoch", Each, Closed, "the authority gave out an epoch number"}
	AuthorityConflict = Kind{"authority.conflict", Each, Gapped, "two objects of one slot and version met; winner and loser"}
	PolicyActivate    = Kind{"policy.activate", Each, Closed, "a policy generation became the enforced one"}
	PolicyRollout     = Kind{"policy.rollout", Each, Closed, "a staged policy waits, is enforced or was stopped on this node"}
	PolicyRefuse      = Kind{"policy.refuse", Each, Gapped, "a policy record was not accepted"}
	DecisionDeny      = Kind{"decision.deny", Each, Gapped, "something was denied, with level and rule"}
	DecisionAllow     = Kind{"decision.allow", Counted, Closed, "connections and requests that were allowed"}
	StateOut          = Kind{"state.out", Each, Closed, "a record this node signed: sequence and digest"}
	StateIn           = Kind{"state.in", Counted, Gapped, "records of others that were applied"}
	StateRefuse       = Kind{"state.refuse", Each, Gapped, "a record that was refused, with the rule"}
	PeerFinding       = Kind{"peer.finding", Each, Gapped, "evidence against an identity was verified"}
	PeerAccuse        = Kind{"peer.accuse", Each, Gapped, "this node accused another of what nothing proves, or took it back"}
	PeerStanding      = Kind{"peer.standing", Each, Gapped, "an identity's standing changed"}
	PeerRelease       = Kind{"peer.release", Each, Gapped, "the authority released or revoked an identity"}
	PeerAppeal        = Kind{"peer.appeal", Each, Closed, "a quarantined identity said why it is sound again"}
	EpochSeal         = Kind{"epoch.seal", Each, Gapped, "this trail ends: the node goes on in another epoch"}
	WitnessKey        = Kind{"witness.key", Each, Closed, "this node has a new key to cosign heads of others with; the one before is retired"}
	WitnessRefuse     = Kind{"witness.refuse", Each, Closed, "a signed head of another's trail that did not fit the one before"}
	AdminAction       = Kind{"admin.action", Each, Closed, "someone acted through the control API"}
	PayloadErase      = Kind{"payload.erase", Each, Closed, "keys of what decisions were about were destroyed, on demand or by age"}
	Pruned            = Kind{"trail.prune", Each, Closed, "leaves below an index were removed by age; their hashes stay"}
	RegionHeads       = Kind{"region.heads", Counted, Gapped, "signed heads of the region's trails, as their nodes showed them to its authority"}
	CustodyConflict   = Kind{"custody.conflict", Each, Gapped, "a node's trail does not continue the copy that is held of it here"}
	Segment           = Kind{"segment", Counted, Closed, "the digest of a file of many decisions"}
)

var kinds = []Kind{
	genesisKind, gapKind, Pruned, openKind, NodeStart, NodeStop, IdentitySVID, IdentityEpoch, IdentityMachine, IdentityAttest, IdentityTrust,
	IssuerAttest, IssuerIssue, IssuerRefuse, AuthorityPublish, AuthorityEpoch, AuthorityConflict,
	PolicyActivate, PolicyRollout, PolicyRefuse, DecisionDeny, DecisionAllow, StateOut, StateIn, StateRefuse,
	PeerFinding, PeerAccuse, PeerStanding, PeerRelease, PeerAppeal, EpochSeal, WitnessKey, WitnessRefuse, AdminAction, PayloadErase, RegionHeads, CustodyConflict, Segment,
}

// routine are the kinds that come all the time, and tell of nothing that was changed here: what others
// said, what was decided, and the node's own heartbeats among its records.
var routine = map[string]bool{
	StateOut.name: true, StateIn.name: true, StateRefuse.name: true, RegionHeads.name: true,
	DecisionAllow.name: true, DecisionDeny.name: true, Segment.name: true,
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
