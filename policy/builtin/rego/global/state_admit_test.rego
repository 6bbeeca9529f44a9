package bailiwick.global.state_admit_test

import rego.v2

import data.bailiwick.global.state_admit

good := {
	"v": 1,
	"kind": "state_admit",
	"time": {"unix": 1790000000, "trusted": true},
	"self": {"region": "east"},
	"source": {
		"spiffe_id": "spiffe://east.dev.example/node/east-n1",
		"path": ["node", "east-n1"],
		"region": "east",
		"standing": "ok",
	},
	"policy": {},
}

patched(ops) := json.patch(good, ops)

settings := {
	"good_standing": ["ok", "watch", "released"],
	"node": {"kinds": ["node", "service"], "bytes": 16384, "rate": 200},
	"programs": {"kinds": ["x-*"], "bytes": 1024, "rate": 50},
}

test_own_prefix if {
	state_admit.allow == {"own-state", "own-programs"} with input as good with data.state as settings
	state_admit.deny == set() with input as good with data.state as settings
	g := state_admit.grant["own-state"] with input as good with data.state as settings
	g == {"prefix": "/node/east-n1", "kinds": ["node", "service"], "scope": "region", "bytes": 16384, "rate": 200}
	p := state_admit.grant["own-programs"] with input as good with data.state as settings
	p == {"prefix": "/node/east-n1", "kinds": ["x-*"], "scope": "region", "bytes": 1024, "rate": 50}
}

test_gateways_write_globally if {
	i := patched([{"op": "add", "path": "/source/roles", "value": ["gateway"]}])
	g := state_admit.grant["own-state"] with input as i with data.state as settings
	g.scope == "global"
}

test_standing if {
	i := patched([{"op": "replace", "path": "/source/standing", "value": "quarantined"}])
	state_admit.deny == {"origin-standing"} with input as i with data.state as settings
}

test_absent_standing if {
	i := patched([{"op": "remove", "path": "/source/standing"}])
	state_admit.deny == {"origin-standing"} with input as i with data.state as settings
}

test_foreign_region if {
	i := patched([{"op": "replace", "path": "/source/region", "value": "west"}])
	state_admit.deny == {"foreign-region"} with input as i with data.state as settings
}

test_absent_region if {
	i := patched([{"op": "remove", "path": "/source/region"}])
	state_admit.deny == {"foreign-region"} with input as i with data.state as settings
}
