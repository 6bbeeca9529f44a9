package explain

import (
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// policies is BW7: policies, their records, authority objects, decisions. A
// refused policy never replaces the one in force.
var policies = []Entry{
	{
		Code: "BW7001", Is: policy.ErrRegoV2,
		Title:   "A policy module does not import rego.v2",
		Meaning: "Every module is read as Rego v2 and has to say so. The policy in force stays.",
		Fix:     "Add the line import rego.v2 under the package of the file the message names.",
	},
	{
		Code: "BW7002", Is: policy.ErrPackage,
		Title:   "A policy module has a package its level may not write",
		Meaning: "Each level writes only under bailiwick.<level>. The policy in force stays.",
		Fix:     "Rename the package of the file the message names to bailiwick.<level>.<kind>, or to a library under its level.",
	},
	{
		Code: "BW7003", Is: policy.ErrSandbox,
		Title:   "A policy uses what policies may not use",
		Meaning: "The module calls a function or keyword that is not available, such as one that reaches the network or the clock. The policy in force stays.",
		Fix:     "Remove it from the line the message names; facts and time come in input.",
	},
	{
		Code: "BW7004", Is: policy.ErrRule,
		Title:   "A policy rule breaks the contract",
		Meaning: "deny, allow and grant have one form each, so that every decision can name its rule. The policy in force stays.",
		Fix:     "Correct the rule at the line the message names: deny contains \"some-id\" if {...}, with one rule for each ID and METADATA that gives its title and owner.",
	},
	{
		Code: "BW7005", Is: policy.ErrTooLarge,
		Title:   "The policy is too large",
		Meaning: "A level has at most 64 modules, 1 MiB of Rego, 8 MiB of data and 1000 rules. The policy in force stays.",
		Fix:     "Keep lists in data with one rule over them, and leave out what no rule reads.",
	},
	{
		Code: "BW7006", Is: policy.ErrLevel,
		Title:   "The policy level is not valid",
		Meaning: "The level's name, a path or its data is wrong. The policy in force stays.",
		Fix:     "Use the level global, regional or local, relative paths that end in .rego, and data that JSON can hold.",
	},
	{
		Code: "BW7007", Is: policy.ErrCompile,
		Title:   "The policy does not compile",
		Meaning: "A module does not parse or does not fit the input's schema; a misspelt field of input is the usual cause. The policy in force stays.",
		Fix:     "Correct the file and line the message names.",
	},
	{
		Code: "BW7008", Is: policy.ErrFormat,
		Title:   "A policy module is not formatted",
		Meaning: "It means what it says but is not in the one layout.",
		Fix:     "Format the file the message names with opa fmt -w FILE.",
	},
	{
		Code: "BW7009", Is: policy.ErrInput, Exit: Denied,
		Title:   "The policy input is not valid",
		Meaning: "A field of the question is unknown, missing, of the wrong type or too large. The decision is a denial.",
		Fix:     "Report it with bailiwick why ID: the node asked its policy a malformed question.",
	},
	{
		Code: "BW7010", Is: bundle.ErrSignature, Exit: Denied,
		Title:   "The policy record is not signed by the key of its level",
		Meaning: "No key that may speak for the level and scope signed it. The policy in force stays.",
		Fix:     "Sign it with the level's policy key, the one that the region's trust record names; get the newest trust record if the key was changed.",
	},
	{
		Code: "BW7011", Is: bundle.ErrDelegation, Exit: Denied,
		Title:   "The policy key is not delegated",
		Meaning: "A delegation is missing, is for another scope, or reaches beyond its parent. The policy in force stays.",
		Fix:     "Have the level above sign a delegation for this key and scope and put it into the policy file.",
	},
	{
		Code: "BW7012", Is: bundle.ErrExpired,
		Title:   "The policy record is not valid now",
		Meaning: "It, or a delegation in it, has expired or is not valid yet. A required level that has expired denies everything.",
		Fix:     "Publish a new version and name it in policy.global or policy.region; check this machine's clock.",
	},
	{
		Code: "BW7013", Is: bundle.ErrDigest,
		Title:   "The policy content does not match its record",
		Meaning: "The content is not the one that was signed: damaged or mixed up. The policy in force stays.",
		Fix:     "Get the policy file again, from another source.",
	},
	{
		Code: "BW7014", Is: bundle.ErrFeature,
		Title:   "The policy requires a feature this node does not have",
		Meaning: "It was written for a newer version. The policy in force stays until it expires.",
		Fix:     "Upgrade this node.",
	},
	{
		Code: "BW7015", Is: bundle.ErrRollback, Exit: Denied,
		Title:   "The policy version is older than the one held",
		Meaning: "Policy versions only grow, so an old policy cannot be put back by whoever kept a copy. The newer one stays.",
		Fix:     "To go back, publish the old content again under a new version.",
	},
	{
		Code: "BW7016", Is: bundle.ErrConflict, Exit: Denied,
		Title:   "Two policy records have one version",
		Meaning: "The level's key signed two contents under one number. The one held stays; both are evidence.",
		Fix:     "Find out who signed both, then publish a higher version.",
	},
	{
		Code: "BW7017", Is: bundle.ErrJump, Exit: Denied,
		Title:   "The policy version jumps too far",
		Meaning: "A jump would let a thief of the key use up all numbers. The policy in force stays.",
		Fix:     "Publish the version after the one held; if the jump is meant, have the level above raise the floor in its delegation.",
	},
	{
		Code: "BW7018", Is: bundle.ErrTooLarge,
		Title:   "The policy content is too large",
		Meaning: "It exceeds what a level may hold. The policy in force stays.",
		Fix:     "Leave out what no rule reads; a level has at most 64 modules, 1 MiB of Rego and 8 MiB of data.",
	},
	{
		Code: "BW7019", Is: bundle.ErrContent,
		Title:   "Not the content of a policy",
		Meaning: "The folder or file holds what cannot be part of a policy, or is not in its one spelling. The policy in force stays.",
		Fix:     "Keep only .rego and data files in the folder; the message names the file that is in the way.",
	},
	{
		Code: "BW7020", Is: bundle.ErrMalformed,
		Title:   "Malformed policy record",
		Meaning: "The bytes are no policy record, or a field is out of its bounds. The policy in force stays.",
		Fix:     "Check that policy.global and policy.region name signed policy files, and get the file again.",
	},
	{
		Code: "BW7023", Is: authority.ErrEpochState,
		Title:   "What is stored about epochs is damaged",
		Meaning: "No epoch is given out until it is put right: a guess could give one out twice. Nodes go on with the epochs they have.",
		Fix:     "Keep <state>/state.db, and restore the authority's store from its newest copy only together with a higher epoch floor.",
	},
	{
		Code: "BW7024", Is: authority.ErrEpochRequest, Exit: Denied,
		Title:   "The epoch request is out of bounds",
		Meaning: "It asks for more epochs than a node may have ready, or for none. No epoch was spent.",
		Fix:     "Check that node and authority run the same version; if they do, report it with both logs.",
	},
	{
		Code: "BW7025", Is: authority.ErrSigner, Exit: Denied,
		Title:   "The authority object is not signed by an authority of its level",
		Meaning: "No key this node trusts for the level signed it. It was kept out.",
		Fix:     "Put the region's newest trust record into trust.records; if it is the newest, the sender is at fault.",
	},
	{
		Code: "BW7026", Is: authority.ErrForeign, Exit: Denied,
		Title:   "The authority object names an identity of another region",
		Meaning: "An authority decides about its own trust domain only. The object was kept out.",
		Fix:     "Use SPIFFE IDs of the region's own trust domain under authority.services.",
	},
	{
		Code: "BW7027", Is: authority.ErrRollback,
		Title:   "The authority object is older than the one held",
		Meaning: "A late relay does this in good faith. The newer one stays.",
		Fix:     "Nothing needs to be done; if the authority itself says it, its store was restored from a copy.",
	},
	{
		Code: "BW7028", Is: authority.ErrJump, Exit: Denied,
		Title:   "The authority object's version jumps too far",
		Meaning: "It is more than 1000 ahead of the one held and does not name it as its parent. It was kept out.",
		Fix:     "Offer the versions between; if the authority's key may be stolen, replace it.",
	},
	{
		Code: "BW7029", Is: authority.ErrBookFull,
		Title:   "The authority book is full",
		Meaning: "There is no room for one more object. Those held stay in force.",
		Fix:     "Remove service names that are not used from authority.services.",
	},
	{
		Code: "BW7030", Is: authority.ErrOrigin,
		Title:   "The authority does not know its own node",
		Meaning: "Its SPIFFE ID is missing or not of the region's trust domain. Nothing was signed.",
		Fix:     "Set node to an ID of the trust domain whose authority keys this node holds.",
	},
	{
		Code: "BW7031", Is: authority.ErrLevel, Exit: Usage,
		Title:   "Unknown authority level",
		Meaning: "A level is none of global, regional, local and autonomous.",
		Fix:     "Write one of the four.",
	},
	{
		Code: "BW7032", Is: authority.ErrMalformed,
		Title:   "Malformed authority object",
		Meaning: "The bytes are no authority object, or break its bounds. They were kept out.",
		Fix:     "Check that both nodes run the same version; get the object again from the authority.",
	},
	{
		Code: "BW7021", Is: decision.ErrNotFound,
		Title:   "No such decision is kept on this node",
		Meaning: "Only the newest denials and a sample of the allows are kept here. The trail has a leaf for every denial.",
		Fix:     "Ask the node that decided, with --node NAME; for older denials run bailiwick trail tail there.",
	},
	{
		Code: "BW7022", Is: decision.ErrAmbiguous, Exit: Usage,
		Title:   "Several decisions have an ID that begins so",
		Meaning: "The beginning given fits more than one decision.",
		Fix:     "Give more of the ID, or ask for the newest with bailiwick why last.",
	},
}
