package bailiwick.global.admin_test

import rego.v2

import data.bailiwick.global.admin

call(name, uid) := {
	"v": 1,
	"kind": "admin",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": "spiffe://east.dev.example/workload/till"},
	"call": {"api": "state", "name": name, "key": "/node/n1/x-orders/7", "uid": uid, "gid": 100, "owner": false},
	"policy": {},
}

owner := json.patch(call("Release", 0), [{"op": "replace", "path": "/call/owner", "value": true}])

test_owner if {
	admin.allow == {"owner"} with input as owner with data.admin.grants as []
}

test_nobody_else if {
	admin.allow == set() with input as call("Get", 1000) with data.admin.grants as []
}

test_user if {
	grants := [{"uid": 1000, "calls": ["Get", "List"]}]
	admin.allow == {"granted"} with input as call("Get", 1000) with data.admin.grants as grants
	admin.allow == set() with input as call("Put", 1000) with data.admin.grants as grants
	admin.allow == set() with input as call("Get", 1001) with data.admin.grants as grants
	admin.allow == set() with input as call("Get", -1) with data.admin.grants as grants
}

test_root_by_number if {
	admin.allow == {"granted"} with input as call("Get", 0) with data.admin.grants as [{"uid": 0, "calls": ["*"]}]
	admin.allow == set() with input as call("Get", 1) with data.admin.grants as [{"uid": 0, "calls": ["*"]}]
}

test_group_and_workload_and_prefix if {
	all := {"gid": 100, "workload": "spiffe://east.dev.example/workload/till", "prefix": "/node/n1/x-orders/", "calls": ["*"]}
	admin.allow == {"granted"} with input as call("Put", 1000) with data.admin.grants as [all]
	every other in [
		{"op": "replace", "path": "/gid", "value": 101},
		{"op": "replace", "path": "/workload", "value": "spiffe://east.dev.example/workload/shop"},
		{"op": "replace", "path": "/prefix", "value": "/node/n1/x-notes/"},
	] {
		admin.allow == set() with input as call("Put", 1000) with data.admin.grants as [json.patch(all, [other])]
	}
}

test_prefix_needs_a_key if {
	without := json.patch(call("Release", 1000), [{"op": "remove", "path": "/call/key"}])
	admin.allow == set() with input as without with data.admin.grants as [{"uid": 1000, "prefix": "/", "calls": ["*"]}]
}

test_a_grant_to_nobody if {
	admin.allow == set() with input as call("Get", 1000) with data.admin.grants as [
		{"calls": ["*"]},
		{"prefix": "/", "calls": ["*"]},
		{"uid": "1000", "calls": ["*"]},
		{"uid": false, "calls": ["*"]},
	]
}
