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
	"update": {
		"key": "/node/east-n1/service/web",
		"kind": "service",
		"op": "put",
		"owner": "spiffe://east.dev.example/node/east-n1",
		"origin": "spiffe://east.dev.example/node/east-n1",
		"size": 10,
		"epoch": 1,
	},
	"policy": {},
}

patched(ops) := json.patch(good, ops)

settings := {
	"good_standing": ["ok", "watch", "released"],
	"kinds": ["node", "service"],
	"crossing_kinds": ["summary"],
	"max_bytes": 16384,
	"rate": 50,
}

test_own_prefix if {
	state_admit.allow == {"own-prefix"} with input as good with data.state as settings
	state_admit.deny == set() with input as good with data.state as settings
	g := state_admit.grant["own-prefix"] with input as good with data.state as settings
	g == {"prefix": "/node/east-n1", "scope": "region", "max_bytes": 16384, "rate": 50}
}

test_gateways_write_globally if {
	i := patched([{"op": "add", "path": "/source/roles", "value": ["gateway"]}])
	g := state_admit.grant["own-prefix"] with input as i with data.state as settings
	g.scope == "global"
}

test_foreign_key if {
	i := patched([{"op": "replace", "path": "/update/owner", "value": "spiffe://east.dev.example/node/east-n2"}])
	state_admit.deny == {"foreign-key"} with input as i with data.state as settings
}

test_unknown_kind if {
	i := patched([{"op": "replace", "path": "/update/kind", "value": "rumour"}])
	state_admit.deny == {"unknown-kind"} with input as i with data.state as settings
}

test_operators_own_kinds if {
	i := patched([{"op": "replace", "path": "/update/kind", "value": "x-rumour"}])
	state_admit.deny == set() with input as i with data.state as settings
}

test_standing if {
	i := patched([{"op": "replace", "path": "/source/standing", "value": "quarantined"}])
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
