package bailiwick.regional.connect_test

import rego.v2

import data.bailiwick.regional.connect

call(zone, service) := {
	"v": 1,
	"kind": "connect",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": "spiffe://east.example.org/workload/shop", "zone": zone},
	"service": {"name": service, "region": "east"},
	"policy": {},
}

test_reached if {
	connect.allow == {"caller-granted"} with input as call("de-1", "web-next")
	connect.deny == set() with input as call("de-1", "web-next")
}

test_not_reached if {
	connect.deny == {"canary-not-here"} with input as call("fr-1", "web-next")
	connect.allow == set() with input as call("fr-1", "web-next")
}

test_without_canary if connect.allow == {"caller-granted"} with input as call("fr-1", "web")

test_canary_without_zones if {
	closed := {"web-next.east": {"callers": ["spiffe://east.example.org/workload/shop"], "canary": {}}}
	connect.deny == {"canary-not-here"} with input as call("de-1", "web-next") with data.services as closed
}

test_stranger if {
	i := object.union(call("de-1", "web-next"), {"source": {"spiffe_id": "spiffe://east.example.org/workload/x"}})
	connect.deny == {"caller-not-granted"} with input as i
}
