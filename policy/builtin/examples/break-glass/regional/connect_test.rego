package bailiwick.regional.connect_test

import rego.v2

import data.bailiwick.regional.connect

# 1790000000 is 2026-09-21T14:13:20Z, 1790006400 is 16:00:00Z.
call(unix) := {
	"v": 1,
	"kind": "connect",
	"time": {"unix": unix, "trusted": true},
	"source": {"spiffe_id": "spiffe://east.example.org/workload/oncall"},
	"service": {"name": "ledger", "region": "east"},
	"policy": {},
}

grant := {
	"service": "ledger.east",
	"caller": "spiffe://east.example.org/workload/oncall",
	"until": 1790006400,
	"ticket": "OPS-1",
}

test_in_time if {
	connect.allow == {"emergency"} with input as call(1790000000) with data.emergencies as [grant]
	connect.deny == set() with input as call(1790000000) with data.emergencies as [grant]
}

test_expired if {
	connect.allow == set() with input as call(1790006400) with data.emergencies as [grant]
	connect.deny == {"caller-not-granted"} with input as call(1790006400) with data.emergencies as [grant]
}

test_untrusted_clock if {
	i := object.union(call(1790000000), {"time": {"unix": 1790000000, "trusted": false}})
	connect.deny == {"caller-not-granted"} with input as i with data.emergencies as [grant]
}

test_no_ticket if {
	connect.deny == {"caller-not-granted"} with input as call(1790000000) with data.emergencies as [object.union(grant, {"ticket": ""})]
}

test_another_service if {
	connect.deny == {"caller-not-granted"} with input as call(1790000000) with data.emergencies as [object.union(grant, {"service": "web.east"})]
}

test_another_caller if {
	other := "spiffe://east.example.org/workload/shop"
	connect.deny == {"caller-not-granted"} with input as call(1790000000) with data.emergencies as [object.union(grant, {"caller": other})]
}

test_listed_caller_needs_no_emergency if {
	services := {"ledger.east": {"callers": ["spiffe://east.example.org/workload/oncall"]}}
	connect.allow == {"caller-granted"} with input as call(1790006400) with data.services as services with data.emergencies as []
}
