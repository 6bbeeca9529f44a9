# METADATA
# title: Which workload may call which service
# description: Zero trust. A call needs a grant in data.services at both ends, for the service by
#   its full name, "<service>.<region>", and the caller by its SPIFFE ID. The caller's region
#   answers when its sidecar dials, the service's region when its sidecar accepts.
# labels:
#   owner: bailiwick
package bailiwick.regional.connect

import rego.v2

# METADATA
# title: The service lists this caller
allow contains "caller-granted" if granted

# METADATA
# title: The service does not list this caller
deny contains "caller-not-granted" if {
	input.service
	not granted
}

granted if input.source.spiffe_id in data.services[full_name].callers

full_name := concat(".", [input.service.name, input.service.region])
