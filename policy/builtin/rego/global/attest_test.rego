package bailiwick.global.attest_test

import rego.v2

import data.bailiwick.global.attest

good := {
	"v": 1,
	"kind": "attest",
	"time": {"unix": 1790000000, "trusted": true},
	"self": {"trust_domain": "east.dev.example"},
	"attest": {
		"method": "bailiwick_tpm",
		"ek": {"maker": "id:494E5443", "sha256": "aa", "chain_ok": true},
		"boot": {
			"secure_boot": true,
			"secure_boot_off": false,
			"command_lines": ["/vmlinuz root=/dev/vda ro"],
			"strings": ["linux /vmlinuz root=/dev/vda ro", "/vmlinuz root=/dev/vda ro"],
			"unexplained": [10],
		},
		"reset_count": 1,
		"restart_count": 0,
		"starts": 1,
		"epoch": 1,
	},
	"policy": {},
}

patched(ops) := json.patch(good, ops)

settings := {
	"makers": [],
	"denied": ["bb", "id:BADBAD00"],
	"secure_boot_exceptions": ["cc", "id:424C574B"],
	"denied_words": ["single"],
	"denied_prefixes": ["init="],
	"unexplained_pcrs": [10],
	"unattested_trust_domains": ["lab.example"],
	"devid_trust_domains": ["shops.example"],
}

no_secure_boot := {"op": "replace", "path": "/attest/boot/secure_boot", "value": false}

test_good if {
	attest.allow == {"attested"} with input as good with data.attest as settings
	attest.deny == set() with input as good with data.attest as settings
}

test_chain if {
	i := patched([{"op": "replace", "path": "/attest/ek/chain_ok", "value": false}])
	attest.deny == {"ek-chain"} with input as i with data.attest as settings
}

test_maker_not_allowed if {
	s := json.patch(settings, [{"op": "replace", "path": "/makers", "value": ["id:49465800"]}])
	attest.deny == {"ek-maker"} with input as good with data.attest as s
}

test_maker_allowed if {
	s := json.patch(settings, [{"op": "replace", "path": "/makers", "value": ["id:494E5443"]}])
	attest.deny == set() with input as good with data.attest as s
}

test_denied_key_and_maker if {
	key := patched([{"op": "replace", "path": "/attest/ek/sha256", "value": "bb"}])
	attest.deny == {"ek-denied"} with input as key with data.attest as settings
	maker := patched([{"op": "replace", "path": "/attest/ek/maker", "value": "id:BADBAD00"}])
	attest.deny == {"ek-denied"} with input as maker with data.attest as settings
}

test_no_boot_log if {
	i := patched([{"op": "remove", "path": "/attest/boot"}])
	attest.deny == {"boot-log-missing", "secure-boot", "command-line-unproven"} with input as i with data.attest as settings
}

test_secure_boot_off if {
	attest.deny == {"secure-boot"} with input as patched([no_secure_boot]) with data.attest as settings
}

test_secure_boot_exception if {
	key := patched([no_secure_boot, {"op": "replace", "path": "/attest/ek/sha256", "value": "cc"}])
	attest.deny == set() with input as key with data.attest as settings
	maker := patched([no_secure_boot, {"op": "replace", "path": "/attest/ek/maker", "value": "id:424C574B"}])
	attest.deny == set() with input as maker with data.attest as settings
}

test_command_line_unproven if {
	i := patched([
		no_secure_boot,
		{"op": "replace", "path": "/attest/ek/sha256", "value": "cc"},
		{"op": "remove", "path": "/attest/boot/command_lines"},
	])
	attest.deny == {"command-line-unproven"} with input as i with data.attest as settings
}

test_command_line if {
	word := patched([{"op": "replace", "path": "/attest/boot/strings", "value": ["/vmlinuz ro single"]}])
	attest.deny == {"command-line"} with input as word with data.attest as settings
	prefix := patched([{"op": "replace", "path": "/attest/boot/strings", "value": ["/vmlinuz init=/bin/sh"]}])
	attest.deny == {"command-line"} with input as prefix with data.attest as settings
}

test_pcr_unexplained if {
	i := patched([{"op": "replace", "path": "/attest/boot/unexplained", "value": [10, 15]}])
	attest.deny == {"pcr-unexplained"} with input as i with data.attest as settings
}

with_references(list) := json.patch(settings, [{"op": "add", "path": "/references", "value": list}])

now := {"name": "N", "maker": "id:494E5443", "command_lines": ["/vmlinuz root=/dev/vda ro"], "digests": {"4": ["aa", "bb"], "7": ["cc"]}}

next := {"name": "N+1", "digests": {"4": ["aa", "dd"]}}

booted(digests) := patched([{"op": "add", "path": "/attest/boot/digests", "value": digests}])

test_no_references if {
	attest.deny == set() with input as good with data.attest as with_references([])
}

test_reference_matches if {
	i := booted({"4": ["aa", "bb"], "7": ["cc"], "8": ["ee"]})
	attest.deny == set() with input as i with data.attest as with_references([now])
	attest.deny == set() with input as i with data.attest as with_references([next, now])
}

test_announced_update_matches if {
	i := booted({"4": ["aa", "dd"], "7": ["cc"]})
	attest.deny == {"reference-mismatch"} with input as i with data.attest as with_references([now])
	attest.deny == set() with input as i with data.attest as with_references([now, next])
}

test_reference_mismatch if {
	every digests in [{"4": ["bb", "aa"], "7": ["cc"]}, {"4": ["aa", "bb", "xx"], "7": ["cc"]}, {"4": ["aa", "bb"]}, {}] {
		attest.deny == {"reference-mismatch"} with input as booted(digests) with data.attest as with_references([now])
	}
	attest.deny == {"reference-mismatch"} with input as good with data.attest as with_references([now])
}

test_reference_other_command_line_or_maker if {
	i := booted({"4": ["aa", "bb"], "7": ["cc"]})
	line := json.patch(now, [{"op": "replace", "path": "/command_lines", "value": ["/vmlinuz"]}])
	attest.deny == {"reference-mismatch"} with input as i with data.attest as with_references([line])
	maker := json.patch(now, [{"op": "replace", "path": "/maker", "value": "id:49465800"}])
	attest.deny == {"reference-mismatch"} with input as i with data.attest as with_references([maker])
}

test_empty_reference_matches_nothing if {
	attest.deny == {"reference-mismatch"} with input as good with data.attest as with_references([{"name": "empty", "digests": {}}])
}

test_reference_is_not_asked_of_tokens if {
	i := patched([
		{"op": "replace", "path": "/attest/method", "value": "join_token"},
		{"op": "replace", "path": "/self/trust_domain", "value": "lab.example"},
	])
	attest.deny == set() with input as i with data.attest as with_references([now])
}

test_token_is_refused if {
	i := patched([{"op": "replace", "path": "/attest/method", "value": "join_token"}])
	attest.allow == set() with input as i with data.attest as settings
	attest.deny == {"unattested"} with input as i with data.attest as settings
}

test_token_in_a_lab if {
	i := patched([
		{"op": "replace", "path": "/attest/method", "value": "join_token"},
		{"op": "replace", "path": "/self/trust_domain", "value": "lab.example"},
	])
	attest.allow == {"unattested-allowed"} with input as i with data.attest as settings
	attest.deny == set() with input as i with data.attest as settings
}

devid := json.patch(good, [
	{"op": "replace", "path": "/attest/method", "value": "tpm_devid"},
	{"op": "remove", "path": "/attest/boot"},
])

at_shops := {"op": "replace", "path": "/self/trust_domain", "value": "shops.example"}

test_devid_is_refused if {
	attest.allow == set() with input as devid with data.attest as settings
	attest.deny == {"devid"} with input as devid with data.attest as settings
	attest.allow == set() with input as json.patch(devid, [{"op": "replace", "path": "/self/trust_domain", "value": "lab.example"}]) with data.attest as settings
}

test_devid_where_it_is_taken if {
	i := json.patch(devid, [at_shops])
	attest.allow == {"devid-allowed"} with input as i with data.attest as settings
	attest.deny == set() with input as i with data.attest as settings
}

test_devid_in_a_denied_tpm if {
	i := json.patch(devid, [at_shops, {"op": "replace", "path": "/attest/ek/sha256", "value": "bb"}])
	attest.deny == {"ek-denied"} with input as i with data.attest as settings
}
