# METADATA
# title: Calls to services that hold classified data
# labels:
#   owner: privacy
package bailiwick.regional.connect

import rego.v2

import data.bailiwick.regional.lib.residency

# METADATA
# title: The service lists this caller
allow contains "caller-granted" if granted

# METADATA
# title: The service does not list this caller
deny contains "caller-not-granted" if {
	input.service
	not granted
}

# METADATA
# title: The caller is in a zone where the service's data may not be
deny contains "outside-geography" if {
	count(service.classes) > 0
	not input.source.zone in residency.permitted(service.classes)
}

service := data.services[concat(".", [input.service.name, input.service.region])]

granted if input.source.spiffe_id in service.callers
