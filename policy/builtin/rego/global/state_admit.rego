# METADATA
# title: Which signed state a node takes in
# description: That the signature, the chain and the ownership of the key are right is checked in
#   code, for every change. Here is asked, once for an origin, what it may write and how much.
# labels:
#   owner: bailiwick
package bailiwick.global.state_admit

import rego.v2

# METADATA
# title: The origin's standing is not good
deny contains "origin-standing" if not input.source.standing in data.state.good_standing

# METADATA
# title: Fine state stays in its region
deny contains "foreign-region" if not input.source.region == input.self.region

# METADATA
# title: A node says what it is, under its own path
allow contains "own-state" if input.source.path

grant["own-state"] := {
	"prefix": own,
	"kinds": data.state.node.kinds,
	"scope": scope,
	"bytes": data.state.node.bytes,
	"rate": data.state.node.rate,
}

# METADATA
# title: The programs of a node write operators' kinds, under its own path
allow contains "own-programs" if input.source.path

grant["own-programs"] := {
	"prefix": own,
	"kinds": data.state.programs.kinds,
	"scope": scope,
	"bytes": data.state.programs.bytes,
	"rate": data.state.programs.rate,
}

own := concat("", ["/", concat("/", input.source.path)])

scope := "global" if {
	"gateway" in input.source.roles
} else := "region"
