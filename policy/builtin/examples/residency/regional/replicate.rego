# METADATA
# title: Which zones state of a class may be copied to
# labels:
#   owner: privacy
package bailiwick.regional.replicate

import rego.v2

import data.bailiwick.regional.lib.residency

# METADATA
# title: The destination is in a zone where this data may not be
deny contains "outside-geography" if {
	not input.destination.zone in residency.permitted(input.resource.classes)
}
