# METADATA
# title: Which attested facts are good enough for an identity
# description: Signatures, nonces and the replay of the boot log were checked in code. These rules
#   judge events and not PCR values, so that an update of firmware or kernel does not lock a node
#   out. A fact that is absent is not proven, and never read as its opposite.
# labels:
#   owner: bailiwick
package bailiwick.global.attest

import rego.v2

# METADATA
# title: The node is attested and no rule objects
allow contains "attested" if by_tpm

# METADATA
# title: The trust domain takes machines by their DevID, which shows nothing of what they run
allow contains "devid-allowed" if {
	input.attest.method == "tpm_devid"
	input.self.trust_domain in data.attest.devid_trust_domains
}

# METADATA
# title: The trust domain takes unattested nodes
allow contains "unattested-allowed" if {
	not has_ek
	input.self.trust_domain in data.attest.unattested_trust_domains
}

# METADATA
# title: No TPM vouches for the machine, and its trust domain is not in attest.unattested_trust_domains of the policy's data
deny contains "unattested" if {
	not has_ek
	not input.self.trust_domain in data.attest.unattested_trust_domains
}

# METADATA
# title: A DevID does not show what the machine runs, and its trust domain is not in attest.devid_trust_domains of the policy's data
deny contains "devid" if {
	input.attest.method == "tpm_devid"
	not input.self.trust_domain in data.attest.devid_trust_domains
}

# METADATA
# title: The endorsement key has no certificate of an accepted maker
deny contains "ek-chain" if {
	has_ek
	not input.attest.ek.chain_ok == true
}

# METADATA
# title: The TPM's maker is not among those allowed
deny contains "ek-maker" if {
	has_ek
	count(data.attest.makers) > 0
	not input.attest.ek.maker in data.attest.makers
}

# METADATA
# title: This TPM, or its maker, is on the deny list
deny contains "ek-denied" if {
	some denied in data.attest.denied
	denied in {input.attest.ek.sha256, input.attest.ek.maker}
}

# METADATA
# title: No boot log explains the TPM's registers
deny contains "boot-log-missing" if {
	by_tpm
	not input.attest.boot
}

# METADATA
# title: Secure boot is not proven to be on, and no exception is declared
deny contains "secure-boot" if {
	by_tpm
	not input.attest.boot.secure_boot == true
	not excepted
}

# METADATA
# title: Neither secure boot nor the kernel's command line is proven
deny contains "command-line-unproven" if {
	by_tpm
	not input.attest.boot.secure_boot == true
	not input.attest.boot.command_lines
}

# METADATA
# title: The kernel's command line holds what is on the deny list
deny contains "command-line" if {
	some line in input.attest.boot.strings
	some word in split(line, " ")
	denied_word(word)
}

# METADATA
# title: Something extended a register that nothing accounts for
deny contains "pcr-unexplained" if {
	some pcr in input.attest.boot.unexplained
	not pcr in data.attest.unexplained_pcrs
}

# METADATA
# title: What was booted is in none of the reference sets
# description: Without reference sets nothing is asked. An update is announced by adding the set of
#   the next boot beside that of the last, before it is installed.
deny contains "reference-mismatch" if {
	by_tpm
	count(data.attest.references) > 0
	not referenced
}

by_tpm if input.attest.method == "bailiwick_tpm"

has_ek if input.attest.method in {"bailiwick_tpm", "tpm_devid"}

excepted if input.attest.ek.maker in data.attest.secure_boot_exceptions

excepted if input.attest.ek.sha256 in data.attest.secure_boot_exceptions

referenced if {
	some reference in data.attest.references
	count(reference.digests) > 0
	every pcr, digests in reference.digests {
		input.attest.boot.digests[pcr] == digests
	}
	lines_match(reference)
	maker_matches(reference)
}

lines_match(reference) if not reference.command_lines

lines_match(reference) if reference.command_lines == input.attest.boot.command_lines

maker_matches(reference) if not reference.maker

maker_matches(reference) if reference.maker == input.attest.ek.maker

denied_word(word) if word in data.attest.denied_words

denied_word(word) if {
	some prefix in data.attest.denied_prefixes
	startswith(word, prefix)
}
