package explain

import (
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/policy/opabundle"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

// How policy travels, and what it is exchanged in.
var travelling = []Entry{
	{
		Code: "BW7054", Is: travel.ErrNoContent, Exit: Unreachable,
		Title:   "No peer in reach has the content of the policy",
		Meaning: "The signed record came and verifies, and nobody who answers has all of the content it names. The policy in force stays, and the node asks again; what came already is kept.",
		Fix:     "Bring one of those in reach to which the policy was handed, or hand the signed file to this node: bailiwick policy publish FILE.",
	},
	{
		Code: "BW7055", Is: travel.ErrQuestion, Exit: Denied,
		Title:   "Not a question for policy content",
		Meaning: "A peer asked for policy content in a form that this version does not know. It was not answered.",
		Fix:     "Run the same version on both nodes.",
	},
	{
		Code: "BW7056", Is: app.ErrPolicyScope,
		Title:   "The policy is for another region",
		Meaning: "A node passes on the policy of the whole mesh and of its own region only. It was handed that of another one, and did nothing.",
		Fix:     "Hand it to a node of the region that the message names.",
	},
	{
		Code: "BW7063", Is: opabundle.ErrBundle, Exit: Denied,
		Title:   "Not an OPA bundle that can be imported",
		Meaning: "It is not signed by the key given, with ES256 over every file, or holds what a policy does not have: wasm, plans, patches. Nothing was taken from it.",
		Fix:     "Have it built with opa build --signing-alg ES256 --signing-key KEY, and give the public half of that key.",
	},
}
