# METADATA
# title: Where labelled state may be kept
# description: A schema of state may name data classes for its keys. A class has geographies, a
#   geography has regions as a whole and zones, "<region>/<zone>". The zone of a node comes from
#   its enrolment. A class that is not in data.residency.classes may go nowhere, unless a region
#   that was delegated this kind says where.
# labels:
#   owner: bailiwick
package bailiwick.global.replicate

import rego.v2

# METADATA
# title: Every class of this state may be kept there
allow contains "permitted" if {
	every class in input.resource.classes {
		permitted(class)
	}
}

# METADATA
# title: A class of this state may not be kept there
deny contains "class-not-permitted" if {
	some class in input.resource.classes
	data.residency.classes[class]
	not permitted(class)
}

permitted(class) if {
	some geography in data.residency.classes[class].geographies
	place in data.residency.geographies[geography].regions
}

permitted(class) if {
	some geography in data.residency.classes[class].geographies
	concat("/", [place, input.destination.zone]) in data.residency.geographies[geography].zones
}

place := input.destination.region
