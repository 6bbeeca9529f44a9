package explain

import (
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
	"github.com/bailiwick-mesh/bailiwick/identity/workloadapi"
)

// kept is the rest of BW4: what a node keeps of its identity, and the socket it
// serves it on.
var kept = []Entry{
	{
		Code: "BW4042", Is: cache.ErrKeyExposed,
		Title:   "The cache's key file is open to others",
		Meaning: "Whoever read it can read the node's cached keys. It was not used.",
		Fix:     "Run chmod 600 on the file the message names. If others may have read it, move it and cache.bin away: the node enrols again.",
	},
	{
		Code: "BW4043", Is: cache.ErrKeyMissing,
		Title:   "The cache's key file is missing",
		Meaning: "There is an encrypted identity cache and no key for it. The cache was left where it is.",
		Fix:     "Restore cache.key, or move cache.bin away: the node enrols again when an issuer can be reached.",
	},
	{
		Code: "BW4044", Is: cache.ErrKey,
		Title:   "The cache's key file cannot be used",
		Meaning: "It is not 32 bytes in a regular file. The cache was left where it is.",
		Fix:     "Restore cache.key, or move it and cache.bin away: the node enrols again when an issuer can be reached.",
	},
	{
		Code: "BW4045", Is: cache.ErrVersion,
		Title:   "The identity cache was written by a newer version",
		Meaning: "This version cannot read it. It was left where it is.",
		Fix:     "Run the newer version, or move cache.bin away: the node enrols again when an issuer can be reached.",
	},
	{
		Code: "BW4046", Is: cache.ErrDamaged,
		Title:   "The identity cache is damaged",
		Meaning: "cache.bin is not what this node wrote last, or belongs to another key file. It was left where it is; without it the node needs an issuer to start.",
		Fix:     "Move cache.bin away and start the node with an issuer in reach. Check the disk.",
	},
	{
		Code: "BW4047", Is: cache.ErrNone,
		Title:   "There is no identity cache yet",
		Meaning: "The node has never been enrolled with this state folder, so it cannot work before it reaches an issuer.",
		Fix:     "See that one of enrol.issuers can be reached.",
	},
	{
		Code: "BW4048", Is: cache.ErrTooLarge,
		Title:   "The identity cache would be too large",
		Meaning: "The node has too many registration entries. What was saved before is kept; a reboot while cut off would start with that.",
		Fix:     "Remove entries of workloads that do not run on this node from the issuer's entries.",
	},
	{
		Code: "BW4049", Is: cache.ErrKeyElsewhere,
		Title:   "The key of this SVID is not in the cache",
		Meaning: "The key lives in the TPM and has to be joined to the certificate; without it the SVID cannot be used.",
		Fix:     "Run bailiwick check tpm; the node needs the TPM it enrolled with.",
	},
	{
		Code: "BW4050", Is: workloadapi.ErrBusy,
		Title:   "Another process serves the Workload API socket",
		Meaning: "Something else answers on the socket, most likely the same node or a SPIRE agent. It was left alone.",
		Fix:     "Stop the other process, or change workload_api.socket.",
	},
	{
		Code: "BW4051", Is: workloadapi.ErrNotSocket,
		Title:   "The Workload API path is taken by a file",
		Meaning: "What is there is not a socket, so it was not replaced.",
		Fix:     "Move the file away, or change workload_api.socket.",
	},
	{
		Code: "BW4052", Is: workloadapi.ErrLongPath, Exit: Usage,
		Title:   "The socket path is too long",
		Meaning: "A unix socket's path has at most 107 bytes.",
		Fix:     "Set workload_api.socket to a shorter path, for example below /run/bailiwick.",
	},
}
