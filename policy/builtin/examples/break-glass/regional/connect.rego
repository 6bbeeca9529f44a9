# METADATA
# title: Who may call, and who may in an emergency, until when
# description: A grant in data.emergencies opens one service to one caller until a moment, with a
#   ticket. It ends by itself, also on a node that is cut off, and needs a clock that is trusted.
# labels:
#   owner: operations
package bailiwick.regional.connect

import rego.v2

# METADATA
# title: The service lists this caller
allow contains "caller-granted" if granted

# METADATA
# title: Break-glass, for a while and with a ticket
# labels:
#   severity: page
allow contains "emergency" if emergency

# METADATA
# title: The service does not list this caller, and no emergency grant is in force
deny contains "caller-not-granted" if {
	input.service
	not granted
	not emergency
}

full_name := concat(".", [input.service.name, input.service.region])

granted if input.source.spiffe_id in data.services[full_name].callers

emergency if {
	input.time.trusted
	some grant in data.emergencies
	grant.service == full_name
	grant.caller == input.source.spiffe_id
	grant.ticket != ""
	input.time.unix < grant.until
}
