package bailiwick.regional.replicate_test

import rego.v2

import data.bailiwick.regional.replicate

copy(zone, classes) := {
	"v": 1,
	"kind": "replicate",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"zone": "de-1"},
	"destination": {"zone": zone},
	"resource": {"classes": classes},
	"policy": {},
}

test_one_class if {
	replicate.deny == set() with input as copy("fr-1", ["health"])
	replicate.deny == {"outside-geography"} with input as copy("us-1", ["health"])
}

test_two_classes_permit_what_both_permit if {
	replicate.deny == set() with input as copy("de-1", ["health", "payroll"])
	replicate.deny == {"outside-geography"} with input as copy("fr-1", ["health", "payroll"])
}

test_unknown_class if replicate.deny == {"outside-geography"} with input as copy("de-1", ["hearsay"])
