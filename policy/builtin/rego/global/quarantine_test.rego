package bailiwick.global.quarantine_test

import rego.v2

import data.bailiwick.global.quarantine

asked := {
	"v": 1,
	"kind": "quarantine",
	"time": {"unix": 1790000000, "trusted": true},
	"roster": {"attested": 40, "unattested": 0},
	"policy": {},
}

test_from_data if {
	quarantine.allow == {"from-data"} with input as asked with data.quarantine as {"cap_percent": 5}
	quarantine.thresholds["from-data"] == {"cap_percent": 5} with input as asked with data.quarantine as {"cap_percent": 5}
}

test_nothing_said if {
	quarantine.allow == set() with input as asked with data.quarantine as false
}
