package bailiwick.global.request_test

import rego.v2

import data.bailiwick.global.request

good := {
	"v": 1,
	"kind": "request",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": "spiffe://east.dev.example/workload/shop", "region": "east", "standing": "ok"},
	"service": {"name": "web", "region": "east"},
	"request": {"method": "GET"},
	"policy": {},
}

patched(ops) := json.patch(good, ops)

test_good if request.deny == set() with input as good with data.connect.good_standing as ["ok"]

test_unknown_node if {
	i := patched([{"op": "remove", "path": "/source/standing"}])
	request.deny == set() with input as i with data.connect.good_standing as ["ok"]
}

test_held if {
	i := patched([{"op": "replace", "path": "/source/standing", "value": "held"}])
	request.deny == {"source-standing"} with input as i with data.connect.good_standing as ["ok"]
}

test_stranger if {
	i := patched([{"op": "remove", "path": "/source/region"}])
	request.deny == {"source-region-unknown"} with input as i with data.connect.good_standing as ["ok"]
}
