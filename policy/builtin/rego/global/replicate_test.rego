package bailiwick.global.replicate_test

import rego.v2

import data.bailiwick.global.replicate

going(classes, region, zone) := {
	"v": 1,
	"kind": "replicate",
	"time": {"unix": 1790000000, "trusted": true},
	"source": {"spiffe_id": "spiffe://east.dev.example/node/n1", "region": "east"},
	"destination": {"spiffe_id": "spiffe://east.dev.example/node/n2", "region": region, "zone": zone},
	"resource": {"classes": classes},
	"policy": {},
}

residency := {
	"classes": {
		"gdpr": {"geographies": ["eea", "adequate"]},
		"pci": {"geographies": ["vault"]},
		"nowhere": {"geographies": []},
	},
	"geographies": {
		"eea": {"regions": ["east"], "zones": ["north/oslo"]},
		"adequate": {"regions": ["west"]},
		"vault": {"zones": ["east/vault"]},
	},
}

allowed(i) if {
	replicate.allow == {"permitted"} with input as i with data.residency as residency
	replicate.deny == set() with input as i with data.residency as residency
}

denied(i) if {
	replicate.allow == set() with input as i with data.residency as residency
	replicate.deny == {"class-not-permitted"} with input as i with data.residency as residency
}

test_region if {
	allowed(going(["gdpr"], "east", "dock"))
	allowed(going(["gdpr"], "west", ""))
	denied(going(["gdpr"], "south", "dock"))
}

test_zone if {
	allowed(going(["gdpr"], "north", "oslo"))
	denied(going(["gdpr"], "north", "bergen"))
	denied(going(["gdpr"], "south", "oslo"))
	denied(json.patch(going(["gdpr"], "north", "oslo"), [{"op": "remove", "path": "/destination/zone"}]))
}

test_all_classes_must_be_permitted if {
	allowed(going(["gdpr", "pci"], "east", "vault"))
	denied(going(["gdpr", "pci"], "east", "dock"))
}

test_class_of_nowhere if denied(going(["nowhere"], "east", "vault"))

test_unknown_class if {
	every classes in [["secret"], ["gdpr", "secret"]] {
		replicate.allow == set() with input as going(classes, "east", "vault") with data.residency as residency
		replicate.deny == set() with input as going(classes, "east", "vault") with data.residency as residency
	}
	denied(going(["gdpr", "secret"], "south", "dock"))
}

test_unknown_region if denied(json.patch(going(["gdpr"], "east", "dock"), [{"op": "remove", "path": "/destination/region"}]))

test_no_data if {
	replicate.allow == set() with input as going(["gdpr"], "east", "dock") with data.residency as {}
	replicate.deny == set() with input as going(["gdpr"], "east", "dock") with data.residency as {}
}
