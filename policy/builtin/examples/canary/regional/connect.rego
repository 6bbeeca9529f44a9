# METADATA
# title: A new version opens to a few zones first
# description: A service with a canary in data opens to its callers in the zones that the canary has
#   reached. The next step is one more zone in data.json; the last takes the canary out.
# labels:
#   owner: release
package bailiwick.regional.connect

import rego.v2

# METADATA
# title: The service lists this caller, and its canary has reached the caller's zone
allow contains "caller-granted" if {
	granted
	reached
}

# METADATA
# title: The service does not list this caller
deny contains "caller-not-granted" if {
	input.service
	not granted
}

# METADATA
# title: The new version has not reached the caller's zone
deny contains "canary-not-here" if {
	granted
	not reached
}

service := data.services[concat(".", [input.service.name, input.service.region])]

granted if input.source.spiffe_id in service.callers

reached if not service.canary

reached if input.source.zone in service.canary.zones
