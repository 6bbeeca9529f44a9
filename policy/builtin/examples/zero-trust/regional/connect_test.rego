package bailiwick.regional.connect_test

import rego.v2

import data.bailiwick.regional.connect

good := {
	"v": 1,
	"kind": "connect",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": "spiffe://west.dev.example/workload/shop"},
	"service": {"name": "web", "region": "east"},
	"policy": {},
}

patched(ops) := json.patch(good, ops)

services := {"web.east": {"callers": [
	"spiffe://east.dev.example/workload/shop",
	"spiffe://west.dev.example/workload/shop",
]}}

test_listed_caller if {
	connect.allow == {"caller-granted"} with input as good with data.services as services
	connect.deny == set() with input as good with data.services as services
}

test_intruder if {
	i := patched([{"op": "replace", "path": "/source/spiffe_id", "value": "spiffe://west.dev.example/workload/intruder"}])
	connect.allow == set() with input as i with data.services as services
	connect.deny == {"caller-not-granted"} with input as i with data.services as services
}

test_same_service_elsewhere if {
	i := patched([{"op": "replace", "path": "/service/region", "value": "west"}])
	connect.deny == {"caller-not-granted"} with input as i with data.services as services
}

test_service_without_region if {
	i := patched([{"op": "remove", "path": "/service/region"}])
	connect.deny == {"caller-not-granted"} with input as i with data.services as services
}

test_no_data if {
	connect.deny == {"caller-not-granted"} with input as good with data.services as {}
}

test_links_between_nodes_are_not_our_business if {
	i := patched([
		{"op": "remove", "path": "/service"},
		{"op": "add", "path": "/action", "value": {"name": "link"}},
	])
	connect.deny == set() with input as i with data.services as services
	connect.allow == set() with input as i with data.services as services
}
