package bailiwick.regional.connect_test

import rego.v2

import data.bailiwick.regional.connect

call(region, path, service) := {
	"v": 1,
	"kind": "connect",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"region": region, "path": path},
	"service": {"name": service, "region": "east"},
	"policy": {},
}

services := {
	"stock.east": {"regions": ["east"], "paths": ["workload/till"]},
	"news.east": {"regions": ["east", "west"]},
}

test_own_region if {
	connect.allow == {"region-granted"} with input as call("east", ["workload", "till"], "stock") with data.services as services
	connect.deny == set() with input as call("east", ["workload", "till"], "stock") with data.services as services
}

test_other_region if {
	connect.deny == {"region-not-listed"} with input as call("west", ["workload", "till"], "stock") with data.services as services
	connect.allow == set() with input as call("west", ["workload", "till"], "stock") with data.services as services
}

test_other_path if {
	connect.deny == {"path-not-listed"} with input as call("east", ["workload", "kiosk"], "stock") with data.services as services
}

test_no_paths_means_every_path if {
	connect.allow == {"region-granted"} with input as call("west", ["workload", "kiosk"], "news") with data.services as services
}

test_unknown_service if {
	connect.deny == {"region-not-listed"} with input as call("east", ["workload", "till"], "other") with data.services as services
}

test_links_between_nodes_are_not_our_business if {
	link := {"v": 1, "kind": "connect", "time": {"unix": 1790000000, "trusted": true}, "action": {"name": "link"}, "policy": {}}
	connect.deny == set() with input as link with data.services as services
}
