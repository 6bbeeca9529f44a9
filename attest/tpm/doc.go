// Package tpm is node evidence: a node proves to a verifier which TPM it holds,
// which keys live in it, what it booted and how often it started.
//
// # The chip
//
// A Device owns one TPM. It runs one sequence of commands at a time, in this
// process and, for sockets, among all processes that use the same one. A
// sequence never needs more than the three transient slots a TPM without a
// resource manager has, and flushes what it loads. Between
// sequences nothing stays loaded: keys wait as saved contexts, which are quick to
// load again, and are rebuilt from their blobs after a TPM reset.
//
// # The keys
//
//	EK     made by the chip's maker, decrypts only; its certificate says which chip
//	AK     P-256 primary of the endorsement hierarchy, restricted: signs only what
//	       the TPM itself has made. The same template gives the same key for ever
//	node   P-256, signs TLS; resident: made in the TPM, fixedTPM and fixedParent;
//	       or attested: in the node's memory, for TPMs too slow for handshakes
//	trail  P-256, signs trail checkpoints; likewise
//
// No key has a password, and none but the EK, whose attributes its maker chose,
// counts for dictionary attack lockout. Two NV counters belong to us, "starts" at
// 0x01b11c01 and "epoch" at 0x01b11c02: they only grow, and survive a disk.
//
// # The exchange
//
// Node attestation "bailiwick_tpm" is four messages of deterministic CBOR (see
// package statement), inside one channel that authenticated the server:
//
//	hello      EK certificates, the public areas of EK, AK, node and trail key,
//	           the feed key, the hash of the boot log
//	challenge  nonce, a secret encrypted so that only the TPM with this EK and this
//	           AK can read it (TPM2_MakeCredential), the PCRs to quote
//	proof      quote, the AK's certification of node key, trail key and both
//	           counters, PCR values, the boot log, HMAC-SHA256 by the secret
//	verdict    the caller's business
//
// Everything the TPM signs carries as qualifying data
//
//	q = SHA-256(lp("bailiwick_tpm/1") lp(hello) lp(challenge) lp(exporter) lp(SPKI))
//
// where lp(x) is the length of x as 8 bytes, big-endian, and x; exporter is at
// least 32 bytes of TLS exporter of the channel, SPKI the key of the CSR. So
// evidence is of no use in another session, over another channel, or for another
// key. That is all that binds an attested node key, which the TPM cannot certify: it
// is in the hello and in the CSR, and whoever reads the node's memory has it. The HMAC is over lp("bailiwick_tpm/1 proof") lp(q) lp(proof without HMAC).
//
// # Quotes that stand alone
//
// Between enrolments a node quotes PCRs 0 to 15 again and again, bound to whatever
// both sides know (EpochQualifier: a beacon, the node, its feed). The Evidence names
// the boot log by its hash only, and has the AK's certification of the node key in use
// and of both counters, so that policy sees what it saw at the enrolment. Whoever holds the authority's endorsement of the AK
// verifies it without the issuer and without asking the node (VerifyQuote), and
// remembers the claims: a TPM that shows fewer resets or an earlier clock than
// before is showing old evidence. The TPM signs as qualifying data
//
//	SHA-256(lp("bailiwick_tpm/1 quote") lp(qualifying) lp(hash of the boot log) lp(node key))
//
// # The checks
//
// Verifier, Session and VerifyQuote are pure over bytes. Every check of every kind of
// evidence is one line of the tables in checks.go, has a stable name, and cannot be
// switched off by policy; policy judges the Claims. The zero Verifier refuses everything.
//
// That the AK is in the endorsement hierarchy is proven, not believed: what an AK
// signs names it by its qualified name, the hash of the path down from the root of
// its hierarchy. Only for such keys does a TPM show its true reset count and
// firmware version.
//
// # SPIRE's DevIDs
//
// A DevID is one more resident P-256 key, with a certificate of the operator's,
// in the files and under the parent that SPIRE's agent wants. With it the node
// speaks SPIRE's own exchange "tpm_devid", which is JSON (devid_wire.go): to a
// stock server, which judges what SPIRE judges, or to a DevIDVerifier, whose checks
// are in checks.go too. SPIRE's exchange certifies the DevID key without
// a nonce and does not bind the key of the CSR; the binding beside it does both, for
// those who look at it, and names the AK above, so that such a node quotes for its
// peers like any other. A DevID's certificate is asked for with the AK's word that
// the key lives in the same TPM (Request, VerifyDevIDRequest).
//
// # What it does not do
//
// It cannot tell a node from a thief who carries the node's TPM, or who rewires
// the bus between a discrete TPM and the CPU. It does not check revocation beyond
// DenyEK. It does not decide which boots are good.
package tpm
