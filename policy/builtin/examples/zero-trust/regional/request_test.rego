package bailiwick.regional.request_test

import rego.v2

import data.bailiwick.regional.request

shop := "spiffe://east.dev.example/workload/shop"

till := "spiffe://east.dev.example/workload/till"

asked(caller, method, path) := {
	"v": 1,
	"kind": "request",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": caller, "region": "east"},
	"service": {"name": "web", "region": "east"},
	"request": {"method": method, "path": path},
	"policy": {},
}

open := {"web.east": {"callers": [shop]}}

listed := {"web.east": {"callers": [shop, till], "requests": [
	{"methods": ["GET", "HEAD"], "prefix": ["v1"]},
	{"methods": ["POST"], "prefix": ["v1", "orders"], "callers": [till]},
]}}

test_without_a_list if {
	request.allow == {"request-granted"} with input as asked(shop, "DELETE", ["x"]) with data.services as open
	request.deny == {"request-not-granted"} with input as asked(till, "GET", []) with data.services as open
}

test_listed if {
	request.allow == {"request-granted"} with input as asked(shop, "GET", ["v1", "orders", "7"]) with data.services as listed
	request.allow == {"request-granted"} with input as asked(till, "POST", ["v1", "orders"]) with data.services as listed
}

test_not_listed if {
	every i in [
		asked(shop, "GET", ["v2"]),
		asked(shop, "GET", []),
		asked(shop, "POST", ["v1", "orders"]),
		asked(till, "POST", ["v1"]),
		asked(till, "PUT", ["v1", "orders"]),
		asked("spiffe://east.dev.example/workload/other", "GET", ["v1"]),
	] {
		request.allow == set() with input as i with data.services as listed
		request.deny == {"request-not-granted"} with input as i with data.services as listed
	}
}

test_the_root if {
	i := json.patch(asked(shop, "GET", []), [{"op": "remove", "path": "/request/path"}])
	request.deny == {"request-not-granted"} with input as i with data.services as listed
	request.allow == {"request-granted"} with input as i with data.services as open
}

test_an_empty_list_lists_nothing if {
	none := {"web.east": {"callers": [shop], "requests": []}}
	request.allow == set() with input as asked(shop, "GET", ["v1"]) with data.services as none
}
