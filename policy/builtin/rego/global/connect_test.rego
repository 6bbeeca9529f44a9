package bailiwick.global.connect_test

import rego.v2

import data.bailiwick.global.connect

good := {
	"v": 1,
	"kind": "connect",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {
		"spiffe_id": "spiffe://east.dev.example/node/east-n1",
		"trust_domain": "east.dev.example",
		"path": ["node", "east-n1"],
		"node": "east-n1",
		"region": "east",
		"standing": "ok",
		"attestation": {"kind": "tpm", "ok": true, "age_seconds": 1},
	},
	"action": {"name": "link"},
	"policy": {},
}

patched(ops) := json.patch(good, ops)

settings := {
	"good_standing": ["ok", "watch", "released"],
	"unattested_trust_domains": ["lab.example"],
}

test_nodes_link if {
	connect.allow == {"node-link"} with input as good with data.connect as settings
	connect.deny == set() with input as good with data.connect as settings
}

test_workloads_do_not_link if {
	i := patched([{"op": "replace", "path": "/source/path", "value": ["workload", "shop"]}])
	connect.allow == set() with input as i with data.connect as settings
}

test_standing_denies if {
	some s in ["held", "quarantined", "revoked", "unheard-of"]
	i := patched([{"op": "replace", "path": "/source/standing", "value": s}])
	"source-standing" in connect.deny with input as i with data.connect as settings
}

test_absent_standing_denies if {
	i := patched([{"op": "remove", "path": "/source/standing"}])
	"source-standing" in connect.deny with input as i with data.connect as settings
}

test_destination_standing_denies if {
	i := patched([{"op": "add", "path": "/destination", "value": {"standing": "quarantined"}}])
	connect.deny == {"destination-standing"} with input as i with data.connect as settings
}

test_unattested_denies if {
	i := patched([{"op": "replace", "path": "/source/attestation/ok", "value": false}])
	connect.deny == {"source-unattested"} with input as i with data.connect as settings
}

test_absent_attestation_denies if {
	i := patched([{"op": "remove", "path": "/source/attestation"}])
	connect.deny == {"source-unattested"} with input as i with data.connect as settings
}

test_unattested_is_fine_where_declared if {
	i := patched([
		{"op": "remove", "path": "/source/attestation"},
		{"op": "replace", "path": "/source/trust_domain", "value": "lab.example"},
	])
	connect.deny == set() with input as i with data.connect as settings
}

test_unknown_region_denies if {
	i := patched([{"op": "remove", "path": "/source/region"}])
	connect.deny == {"source-region-unknown"} with input as i with data.connect as settings
}

test_no_settings_deny if {
	"source-standing" in connect.deny with input as good with data.connect as {}
}
