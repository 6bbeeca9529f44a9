# METADATA
# title: Who may do what through a node's own API
# description: A grant in data.admin.grants names callers by uid, gid or workload, and calls by name,
#   with * for all. A prefix narrows calls about one key of signed state. Every condition that a
#   grant has must hold.
# labels:
#   owner: bailiwick
package bailiwick.global.admin

import rego.v2

# METADATA
# title: Root and the user the node runs as make every call
allow contains "owner" if input.call.owner

# METADATA
# title: A grant of the policy's data gives this caller this call
allow contains "granted" if {
	some grant in data.admin.grants
	by_caller(grant)
	user_matches(grant)
	group_matches(grant)
	workload_matches(grant)
	key_matches(grant)
	some call in grant.calls
	call in {"*", input.call.name}
}

by_caller(grant) if grant.uid

by_caller(grant) if grant.gid

by_caller(grant) if grant.workload

user_matches(grant) if not grant.uid

user_matches(grant) if grant.uid == input.call.uid

group_matches(grant) if not grant.gid

group_matches(grant) if grant.gid == input.call.gid

workload_matches(grant) if not grant.workload

workload_matches(grant) if grant.workload == input.source.spiffe_id

key_matches(grant) if not grant.prefix

key_matches(grant) if {
	input.call.key
	startswith(input.call.key, grant.prefix)
}
