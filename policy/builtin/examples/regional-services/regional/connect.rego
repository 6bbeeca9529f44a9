# METADATA
# title: Services that are open to whole regions
# description: A service names the regions that may call it, and may narrow them to the workloads
#   below some paths. A service that is not in data.services is closed.
# labels:
#   owner: stores
package bailiwick.regional.connect

import rego.v2

# METADATA
# title: The service is open to the caller's region and path
allow contains "region-granted" if {
	region_listed
	path_listed
}

# METADATA
# title: The service is not open to the caller's region
deny contains "region-not-listed" if {
	input.service
	not region_listed
}

# METADATA
# title: The service is not open to workloads of this path
deny contains "path-not-listed" if {
	region_listed
	not path_listed
}

service := data.services[concat(".", [input.service.name, input.service.region])]

region_listed if input.source.region in service.regions

path_listed if not service.paths

path_listed if {
	some prefix in service.paths
	startswith(concat("/", input.source.path), prefix)
}
