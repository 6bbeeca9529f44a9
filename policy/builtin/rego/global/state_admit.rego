# METADATA
# title: Which signed state a node takes in
# description: That the signature, the chain and the ownership of the key are right was checked
#   before. Here is asked whether this origin may write this kind of key, and how much.
# labels:
#   owner: bailiwick
package bailiwick.global.state_admit

import rego.v2

# METADATA
# title: The origin's standing is not good
deny contains "origin-standing" if not input.source.standing in data.state.good_standing

# METADATA
# title: Only the owner of a key writes it
deny contains "foreign-key" if not input.update.owner == input.update.origin

# METADATA
# title: The kind of key is not in the registry
deny contains "unknown-kind" if not known_kind

# METADATA
# title: Fine state stays in its region
deny contains "foreign-region" if {
	not input.source.region == input.self.region
	not input.update.kind in data.state.crossing_kinds
}

# METADATA
# title: A node writes under its own path
allow contains "own-prefix" if input.source.path

grant["own-prefix"] := {
	"prefix": concat("", ["/", concat("/", input.source.path)]),
	"scope": scope,
	"max_bytes": data.state.max_bytes,
	"rate": data.state.rate,
}

known_kind if input.update.kind in data.state.kinds

known_kind if startswith(input.update.kind, "x-")

scope := "global" if {
	"gateway" in input.source.roles
} else := "region"
