# METADATA
# title: Which workload may make which HTTP request of which service
# description: Who may call a service may make every request of it, unless data.services names its
#   requests. Then one of them must match, in method, in the beginning of the path, and in caller
#   where it names callers.
# labels:
#   owner: bailiwick
package bailiwick.regional.request

import rego.v2

# METADATA
# title: The service lists this caller, and this request if it lists any
allow contains "request-granted" if granted

# METADATA
# title: The service does not list this caller, or not this request
deny contains "request-not-granted" if not granted

granted if {
	input.source.spiffe_id in service.callers
	not service.requests
}

granted if {
	input.source.spiffe_id in service.callers
	some listed in service.requests
	input.request.method in listed.methods
	array.slice(path, 0, count(listed.prefix)) == listed.prefix
	called_by(listed)
}

called_by(listed) if not listed.callers

called_by(listed) if input.source.spiffe_id in listed.callers

service := data.services[concat(".", [input.service.name, input.service.region])]

path := object.get(input.request, "path", [])
