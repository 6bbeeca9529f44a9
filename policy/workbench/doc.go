// Package workbench is what authors of policy work with before anything is signed: it reads a
// working tree and checks, tests, tries, measures and compares what is in it. It goes by the rules
// of package policy, with the same sandbox and the same closed inputs, so that what passes here is
// what a node activates.
//
// # The working tree
//
//	tree.json    the region the tree is for, and what each level may allow (Plan)
//	README.md    for people
//	global/      a folder for each level that is written here: what is signed and published,
//	regional/    in the form that package policy/bundle packs (*.rego, data.json, schemas/)
//	local/
//	inputs/      *.json: questions to check, measure and compare with
//
// The folder of one level is a tree as well: its level is the one that its packages name, and its
// plan is the tree.json of the folder it is in. Where the global level is not in the tree, the one
// that ships with bailiwick takes its place, as it does on a node.
//
// A signed policy file is read as a tree too, of its one level. Its signature is not verified here:
// bailiwick policy publish --verify does that.
//
// # What always holds
//
//   - Nothing here decides anything for a node, writes to a node or asks the network.
//   - Every mistake is reported at once, with its file and line.
//   - Answers depend on the tree and the inputs only; what measures says so in its name.
//
// Package workbench prints nothing: the command does.
package workbench
