package explain

import (
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/admission"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
	"github.com/bailiwick-mesh/bailiwick/policy/reach"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
	"github.com/bailiwick-mesh/bailiwick/policy/schema"
	"github.com/bailiwick-mesh/bailiwick/policy/why"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// policies is BW7: policies, their records, decisions. A
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
		Fix:     "Correct the file and line the message names; bailiwick policy check DIR shows every mistake with its line and the likely fix.",
	},
	{
		Code: "BW7008", Is: policy.ErrFormat,
		Title:   "A policy module is not formatted",
		Meaning: "It means what it says but is not in the one layout.",
		Fix:     "Run bailiwick policy fmt DIR: it lays out every module of the tree.",
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
		Fix:     "Sign global policy with a key of trust.global_keys, and regional policy with the policy key that the region's trust record names, with its delegation (bailiwick trust sign --delegation). If a key was changed, get the newest trust record or global key.",
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
		Fix:     "Publish a new version (bailiwick policy publish); check this machine's clock.",
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
		Fix:     "To go back, publish the old content again under a new version: bailiwick policy rollback.",
	},
	{
		Code: "BW7016", Is: bundle.ErrConflict, Exit: Denied,
		Title:   "Two policy records have one version",
		Meaning: "The level's key signed twice under one number, as a publisher does that was put back from a copy. Every node enforces that with the lower name, whichever came first, and keeps the other as evidence; status names both.",
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
		Fix:     "Keep only .rego and data files in the folder, and mend the line that is shown; the message names the file that is in the way.",
	},
	{
		Code: "BW7020", Is: bundle.ErrMalformed,
		Title:   "Malformed policy record",
		Meaning: "The bytes are no policy record, or a field is out of its bounds. The policy in force stays.",
		Fix:     "Check that policy.global and policy.region name signed policy files, and get the file again.",
	},
	{
		Code: "BW7035", Is: schema.ErrSchema,
		Title:   "A schema of state is not valid",
		Meaning: "A file below schemas/ of a policy is no schema, or says what schemas of state may not: something outside its file, an unknown keyword, a pattern that is not RE2, more than the bounds allow. The policy in force stays.",
		Fix:     "Correct the file and line the message names; go doc ./policy/schema has what a schema may say.",
	},
	{
		Code: "BW7036", Is: schema.ErrValue, Exit: Denied,
		Title:   "The value breaks the schema of its key",
		Meaning: "The region's policy has a schema for this kind and name, and the value does not match it at the places the message names. A local write was not made. Of a peer's write the record is kept and passed on, and the value is not shown here; it convicts nobody.",
		Fix:     "Correct the value. If the schema is wrong, publish a policy with a corrected one: what it lets through then appears by itself.",
	},
	{
		Code: "BW7037", Is: admission.ErrDenied, Exit: Denied,
		Title:   "Policy lets this origin write nothing here",
		Meaning: "state_admit denies this node's state, or no level grants it any, or a level is missing, expired or failing. Nothing was written.",
		Fix:     "Run bailiwick why last for the rule; look at the node's standing, and at the policy's end in bailiwick status.",
	},
	{
		Code: "BW7038", Is: admission.ErrGrant, Exit: Denied,
		Title:   "The change is outside what policy grants its origin",
		Meaning: "The grants of state_admit bound the prefix, kind and scope of keys and the size of values. The message names the bound that was met. A local write was not made; a peer's is kept, passed on and not shown.",
		Fix:     "Stay within the bound, or change the grant in the policy (data.state of the shipped one).",
	},
	{
		Code: "BW7039", Is: admission.ErrRate, Exit: Denied,
		Title:   "The origin exceeds the rate of its grant",
		Meaning: "A grant lets an origin make so many changes a second by its own signed clock, and ten seconds' worth at once. This write was not made; what is held stays.",
		Fix:     "Write less often, or keep several values in one key. If the node needs more, raise rate in the policy (data.state of the shipped one).",
	},
	{
		Code: "BW7040", Is: workbench.ErrTree,
		Title:   "Not a working tree of policy",
		Meaning: "What was named cannot be read, is a file that is no signed policy, or a folder that has no level in it, mixes levels, or has a tree.json that is wrong. Nothing was changed.",
		Fix:     "Name the folder that holds global, regional or local, the folder of one level, or a signed policy file; bailiwick policy init DIR makes a tree.",
	},
	{
		Code: "BW7049", Is: workbench.ErrNotEmpty, Exit: Usage,
		Title:   "The folder for a new policy tree is not empty",
		Meaning: "policy init writes over nothing. Nothing was written.",
		Fix:     "Name a folder that is empty or not there.",
	},
	{
		Code: "BW7050", Is: workbench.ErrInputs,
		Title:   "There are no policy inputs that can be asked there",
		Meaning: "An input is wrong, and the message has its line; or there is none: the file or folder is empty, or masking rules changed every decision in it.",
		Fix:     "Mend the line. Or name a file with one input, a folder of such files (*.json), or a log of decisions.",
	},
	{
		Code: "BW7051", Is: workbench.ErrAsk, Exit: Usage,
		Title:   "Not a question for policy",
		Meaning: "An input cannot be made of the flags that were given. The message names the part.",
		Fix:     "bailiwick policy try --help has examples; bailiwick policy check --schema KIND lists the fields of a kind.",
	},
	{
		Code: "BW7021", Is: decision.ErrNotFound,
		Title:   "No such decision is kept on this node",
		Meaning: "Denials and a sample of the allows are kept here, until their bound on disk takes the oldest. The trail has a leaf for every denial.",
		Fix:     "Ask the node that decided, with --node NAME; for older denials run bailiwick trail tail there, or look into an export with bailiwick why ID --file FILE.",
	},
	{
		Code: "BW7022", Is: decision.ErrAmbiguous, Exit: Usage,
		Title:   "Several decisions have an ID that begins so",
		Meaning: "The beginning given fits more than one decision.",
		Fix:     "Give more of the ID, or ask for the newest with bailiwick why last.",
	},
	{
		Code: "BW7041", Is: decision.ErrEvent,
		Title:   "Bytes are no event of a decision log",
		Meaning: "A line is not an event in OPA's decision-log format with a path of bailiwick, or it is damaged or too long. What came before it was read.",
		Fix:     "Give the folder of segments (<state>/decisions) or a file that bailiwick trail export wrote; the message names the file and the event in it.",
	},
	{
		Code: "BW7042", Is: decision.ErrSegment,
		Title:   "A file is no segment of a decision log, or a damaged one",
		Meaning: "Segments are gzip files with a first line that tells what follows, and as many events as it says. This one is not, so what it recorded cannot be read.",
		Fix:     "Keep the file for the auditors. The trail still has a leaf for each denial, with the digest of its input: bailiwick trail tail.",
	},
	{
		Code: "BW7043", Is: decision.ErrChain,
		Title:   "A segment does not continue the one before",
		Meaning: "Each segment names the digest of the one before. One was exchanged, taken out of the middle, or put back from a copy.",
		Fix:     "Look for the missing or older file the message names; compare with a copy made elsewhere. The trail says which digest each segment had.",
	},
	{
		Code: "BW7044", Is: decision.ErrUnsigned,
		Title:   "A segment is not the one in the trail",
		Meaning: "The trail has the digest of every segment, under the node's signature, and this file has another: it was changed after it was written.",
		Fix:     "Treat what the file says as unproven, and find out who could write to the node's state folder. Compare with an earlier export.",
	},
	{
		Code: "BW7064", Is: decision.ErrMissing,
		Title:   "The newest decision segments are missing",
		Meaning: "The trail names segments newer than all files. A node removes the oldest only, and says so in a gap leaf: these were deleted, or the folder is from an older copy.",
		Fix:     "Find out who could write to the node's state folder, and look for the files in a copy or an export. For each denial in them the trail still has a leaf of its own.",
	},
	{
		Code: "BW7065", Is: policy.ErrIdle,
		Title:   "Part of the policy has no effect",
		Meaning: "Nodes would take it, and its author hardly meant it: a name in data.json that no rule of the level reads, a text where rules look for a list, or a comparison with a word that the field can never be. The message names the place.",
		Fix:     "Mend the name. What is for people only begins with _ .",
	},
	{
		Code: "BW7066", Is: bundle.ErrFloor, Exit: Denied,
		Title:   "The policy version is older than the one in force in the region",
		Meaning: "The issuer showed this node a newer signed version when it enrolled. Whoever offers the older one is behind, or holds the newer one back; it is not put in force, and what is in force stays.",
		Fix:     "Bring a peer in reach that has the newer version (bailiwick status --peers), or hand its file to this node: bailiwick policy publish FILE. A configured policy file that old is left aside: replace it.",
	},
	{
		Code: "BW7045", Is: decision.ErrNothing,
		Title:   "There are no recorded decisions there",
		Meaning: "Neither the folder, nor the folder decisions in it or beside it, has a segment. A node writes one at least every quarter of an hour in which it decided something.",
		Fix:     "Name the node's state folder, its folder decisions, or an exported file. A node that runs writes what it has at once when asked: bailiwick trail export --node NAME.",
	},
	{
		Code: "BW7046", Is: reach.ErrRoster, Exit: Usage,
		Title:   "Not a roster of callers and services",
		Meaning: "A roster file has a field that is unknown, missing or names what is not in it, or the service or caller asked about is not one. The message names each place.",
		Fix:     "Have a node write it with bailiwick policy reach --export FILE, or correct the places named; go doc ./policy/reach has the fields.",
	},
	{
		Code: "BW7047", Is: reach.ErrTooMany, Exit: Usage,
		Title:   "Too many callers, services and nodes for one matrix",
		Meaning: "The matrix would take more decisions than one question may. Nothing was computed.",
		Fix:     "Ask about one service with --service, or about one caller with --id.",
	},
	{
		Code: "BW7048", Is: policy.ErrRecording,
		Title:   "The policy does not say what to mask",
		Meaning: "The rules of a package bailiwick.<level>.log failed for this decision. It is recorded without its input, as nobody knows what of it may be written; the decision itself is not changed.",
		Fix:     "Correct the rule the message names: mask gives paths below /input, or objects with op (remove or upsert), path and value; sample is one whole number from 1 to 1,000,000.",
	},
	{
		Code: "BW7052", Is: governing.ErrNoShadow,
		Title:   "No candidate policy is compared on this node",
		Meaning: "There is nothing to report, to promote or to stop: none was started here, or it was stopped or promoted.",
		Fix:     "Start one with bailiwick policy shadow start DIR, or ask the node that has one with --node.",
	},
	{
		Code: "BW7053", Is: governing.ErrShadow, Exit: Usage,
		Title:   "Not a candidate policy for this node",
		Meaning: "It has no level, one twice or an unknown one, or it is for another region than the node's. What was compared before goes on.",
		Fix:     "Name a working tree, the folder of one level or a signed policy file of the node's region; tree.json says which region a tree is for.",
	},
	{
		Code: "BW7057", Is: policy.ErrBudget,
		Title:   "A policy takes too many steps",
		Meaning: "For the input that the message names a level does more work than one decision may take, most of it in the rule that it names. The policy in force stays.",
		Fix:     "Put what decides first into the rule, look things up by key instead of searching through lists, and keep less in data. bailiwick policy bench shows the steps of every input.",
	},
	{
		Code: "BW7058", Is: policy.ErrReverted,
		Title:   "This policy was tried and reverted",
		Meaning: "The generation was in force on this node, and for most callers its evaluations took too many steps or panicked, and when the node asked the same itself, while the one before answers. The one before it is in force, until another is published or the node starts anew.",
		Fix:     "Look at the denials with the rule level-error (bailiwick why last) for the level that failed, correct it and publish a new version.",
	},
	{
		Code: "BW7059", Is: rollout.ErrPlan, Exit: Usage,
		Title:   "Not a valid rollout plan",
		Meaning: "A field of the plan is unknown or out of its bounds. The message names each. Nothing was signed; a node refuses a record with such a plan.",
		Fix:     "Correct the fields named: rings (name, zones, nodes, classes, percent), soak_seconds and limits; go doc ./policy/rollout.Plan says what each may be.",
	},
	{
		Code: "BW7060", Is: why.ErrUnexplained,
		Title:   "The decision cannot be explained by a policy",
		Meaning: "The node refused by itself before any policy was asked, or the decision was recorded without all of its input. What was recorded is shown all the same.",
		Fix:     "Read the rule and the reason of the decision: lease-... is the autonomy lease, refused-at-... a check of the connection. For masked inputs look at the package log of the policy.",
	},
	{
		Code: "BW7061", Is: export.ErrFormat, Exit: Usage,
		Title:   "Not a format decisions are exported in",
		Meaning: "Decisions are exported as opa, ocsf or otlp. Nothing was written.",
		Fix:     "Give one of these to --format.",
	},
	{
		Code: "BW7062", Is: export.ErrCollector,
		Title:   "The collector did not take the logs",
		Meaning: "It answered with an error, or refused some of the records. What was posted before is there; nothing is sent again by itself.",
		Fix:     "Look at the answer in the message and at the collector's log; --to wants the endpoint of OTLP logs over HTTP, mostly port 4318 and /v1/logs, with JSON. Or write a file with --out and have the collector read it (otlpjsonfile).",
	},
	{
		Code: "BW7068", Is: reach.ErrNoService, Exit: Usage,
		Title:   "There is no such service",
		Meaning: "What is known of services, by the node or in the file of --roster, has none of that name. Nothing was computed: this is no answer of the policy.",
		Fix:     "Take the name that the message gives. Without --service, bailiwick policy reach shows all there are; a service is known once a node that serves it is.",
	},
	{
		Code: "BW7067", Is: export.ErrRefused,
		Title:   "The collector refuses these logs for good",
		Meaning: "It could not read the request, or took a part of it and said that the rest is of no use. A node that sends its trail passes over these records and goes on; bailiwick_shipping_requests_total counts it. The trail itself has them.",
		Fix:     "Look at the answer in the message and at the collector's log: mostly the size of a request or the age of a record is more than it is set up for.",
	},
}
