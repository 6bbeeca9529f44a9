// Package machine is what this node is made of, as far as it can prove it: its TPM, or
// without one, key files that only its user protects.
//
//	machine   opening it: which TPM, which keys, and whether the disk is the one used last
//	nodekey   the node's own key, in the TPM or in memory, and what proves it
//	newtpm    a TPM that was cleared or replaced
//
// Its keys are three: the node's, for SVIDs and sessions; the trail's; and the feed's, which
// signs records. With a TPM the first two are made in it and the feed's is a file, certified
// for one epoch at a time; without one all are files in the folder keys of the state.
//
// A start finds the disk the same as at the last, or restored: records may then have been
// sent that this disk does not know. Restored ends with the first epoch that no other copy
// of the disk can have written in. A TPM that was cleared or replaced makes the machine a
// renewed one, until an epoch has begun with its new keys. Both outlast restarts.
//
// What always holds: a start is counted on disk before the TPM counts it, so that a crash in
// between looks like the same disk and never like a restored one; no key file is deleted,
// those of another TPM are set aside; a TPM that is there and wrong never makes an unattested
// node of this one.
//
// The package asks no issuer and knows no epoch: package enrolling does. Its errors are
// ErrNoTPM, ErrBootLog, and those of packages tpm, keyfile and store.
package machine
