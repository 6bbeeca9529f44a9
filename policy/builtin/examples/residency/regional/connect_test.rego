package bailiwick.regional.connect_test

import rego.v2

import data.bailiwick.regional.connect

call(zone, service) := {
	"v": 1,
	"kind": "connect",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": "spiffe://east.example.org/workload/clinic", "zone": zone},
	"service": {"name": service, "region": "east"},
	"policy": {},
}

test_permitted_zone if {
	connect.allow == {"caller-granted"} with input as call("de-1", "records")
	connect.deny == set() with input as call("de-1", "records")
}

test_forbidden_zone if connect.deny == {"outside-geography"} with input as call("us-1", "records")

test_no_zone if {
	connect.deny == {"outside-geography"} with input as json.patch(call("de-1", "records"), [{"op": "remove", "path": "/source/zone"}])
}

test_unclassified_data_may_be_anywhere if {
	connect.deny == set() with input as call("us-1", "opening-hours")
}

test_unknown_class if {
	odd := {"records.east": {"callers": ["spiffe://east.example.org/workload/clinic"], "classes": ["hearsay"]}}
	connect.deny == {"outside-geography"} with input as call("de-1", "records") with data.services as odd
}

test_stranger if {
	i := object.union(call("de-1", "records"), {"source": {"spiffe_id": "spiffe://east.example.org/workload/x"}})
	connect.deny == {"caller-not-granted"} with input as i
}
