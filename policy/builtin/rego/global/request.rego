# METADATA
# title: Which HTTP requests are refused, whatever a region says
# description: Denies only. Which caller may make which request of which service is for the regions
#   to say.
# labels:
#   owner: bailiwick
package bailiwick.global.request

import rego.v2

# METADATA
# title: The caller belongs to no region this node knows
deny contains "source-region-unknown" if not input.source.region

# METADATA
# title: The caller's standing is not good
# description: A certificate does not say on which node its workload runs; where that is not known,
#   neither is the standing.
deny contains "source-standing" if {
	input.source.standing
	not input.source.standing in data.connect.good_standing
}
