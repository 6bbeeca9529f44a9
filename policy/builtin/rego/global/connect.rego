# METADATA
# title: Who may connect, whatever a region says
# description: Denies only, and the links between nodes. Which workload may call which service is
#   for the regions to say.
# labels:
#   owner: bailiwick
package bailiwick.global.connect

import rego.v2

# METADATA
# title: The caller's standing is not good
deny contains "source-standing" if not input.source.standing in data.connect.good_standing

# METADATA
# title: The destination's standing is not good
deny contains "destination-standing" if {
	input.destination
	not input.destination.standing in data.connect.good_standing
}

# METADATA
# title: The caller's node is not attested, and its trust domain must be
deny contains "source-unattested" if {
	not input.source.attestation.ok
	not input.source.trust_domain in data.connect.unattested_trust_domains
}

# METADATA
# title: The caller belongs to no region this node knows
deny contains "source-region-unknown" if not input.source.region

# METADATA
# title: Nodes of known regions may link to each other
allow contains "node-link" if {
	input.action.name == "link"
	not input.service
	input.source.node
	input.source.spiffe_id
	"node" in input.source.path
}
