// Package tpmcheck looks at a machine's TPM for all that would keep a node from
// attesting by it, and says of each missing piece what mends it.
//
// One Finding for each check, in this order; a check that cannot be made because of an
// earlier one is left out:
//
//	device          it opens and answers as a TPM 2.0
//	maker           who made it, which firmware
//	owner           the owner hierarchy has no password
//	endorsement     nor has the endorsement hierarchy
//	lockout         it refuses no authorizations for having seen wrong ones
//	banks           the SHA-256 bank of PCRs is on
//	ek-certificate  its maker left one: RSA-2048, P-256 and P-384 are looked for
//	ek-chain        it leads to a maker the issuer believes in, where that is known
//	counters        the NV indices of starts and epochs are ours or free
//	boot-log        the firmware's log can be read and explains the PCRs
//	secure-boot     the log proves that it is on
//	signing         what a signature takes
//	keys            the node's key files, if there are any, are of this TPM
//
// Nothing is changed: no counter is made or counted, no key is kept. A TPM without the
// kernel's resource manager is only rid of what a dead process left in its slots.
package tpmcheck
