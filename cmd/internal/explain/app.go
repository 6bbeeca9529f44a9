package explain

import (
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
)

// wiring is what only a whole node can run into, in the area of its subject. It
// is the most particular there is: each wraps an error of the part concerned.
var wiring = []Entry{
	{
		Code: "BW1004", Is: config.ErrPEM,
		Title:   "A PEM file does not hold what is wanted of it",
		Meaning: "A key or certificate file named in the configuration is damaged or of another kind. Nothing was started.",
		Fix:     "Correct the path the message names, under trust.global_keys, enrol.x509pop or issuer, or get the file again.",
	},
	{
		Code: "BW1005", Is: issuing.ErrPort,
		Title:   "The issuer's address cannot be used",
		Meaning: "Another process holds the TCP address of issuer.listen, or the machine does not have it. Nothing was started.",
		Fix:     "Find it with ss -ltnp and stop it, or change issuer.listen.",
	},
	{
		Code: "BW1012", Is: config.ErrFile,
		Title:   "A file that the configuration names cannot be read",
		Meaning: "The message names the field, the path and what the system says. Nothing was started, or, at a reload, nothing changed.",
		Fix:     "Correct the path (relative ones are relative to the configuration), or let the node's user read the file.",
	},
	{
		Code: "BW1013", Is: app.ErrMetricsPort,
		Title:   "The address for metrics cannot be used",
		Meaning: "Another process holds the TCP address of metrics.listen, or the machine does not have it. Nothing was started.",
		Fix:     "Find it with ss -ltnp and stop it, or change metrics.listen.",
	},
	{
		Code: "BW3022", Is: machine.ErrNoTPM,
		Title:   "A TPM is required and none answers",
		Meaning: "tpm.mode is required and the device cannot be used. The node did not start, rather than start unattested.",
		Fix:     "Check tpm.device with bailiwick check tpm DEVICE; set tpm.mode to auto or off only if the node may be unattested.",
	},
	{
		Code: "BW3023", Is: machine.ErrBootLog,
		Title:   "The boot log cannot be used",
		Meaning: "The firmware's log cannot be read or is too large, and without it the machine's evidence is incomplete.",
		Fix:     "Check tpm.boot_log; /sys/kernel/security/tpm0/binary_bios_measurements needs securityfs mounted, and root to read it.",
	},
	{
		Code: "BW4053", Is: enrolling.ErrWrongNode,
		Title:   "The issuer gives this machine another identity",
		Meaning: "The issuer knows this machine's TPM or token under another name than the configuration expects. The node refused to run under it.",
		Fix:     "Make node in the configuration and the id of the machine's entry in issuer.entries the same.",
	},
	{
		Code: "BW4058", Is: cache.ErrUnsealed,
		Title:   "The sealed key of the identity cache cannot be opened",
		Meaning: "tpm.seal_cache sealed it to another TPM, or to this one before it was cleared. Key and cache were set aside, and the node enrols again.",
		Fix:     "Nothing needs to be done where an issuer can be reached. If the TPM should be the same one, check tpm.device; the files that were set aside open again beside the TPM that sealed them.",
	},
	{
		Code: "BW4064", Is: issuing.ErrNesting,
		Title:   "The issuer's keys and its upstream do not go together",
		Meaning: "A signing authority is either its own anchor or certified by the upstream, and what issuer.keys holds is not what issuer.upstream says. The node did not start.",
		Fix:     "To nest an issuer, or to end it, move svid-root*.pem, authorities.json and upstream.json out of issuer.keys, and give the region a trust record that names the new anchors first.",
	},
	{
		Code: "BW5026", Is: app.ErrNotNeighbour, Exit: Denied,
		Title:   "Links across regions are for gateways",
		Meaning: "A node of another region wants a link and one of the two is no gateway. It was refused.",
		Fix:     "If it should be one, list the other's address under mesh.gateways on both nodes.",
	},
	{
		Code: "BW6057", Is: app.ErrResidency, Exit: Denied,
		Title:   "State of this data class may not be kept by every node of the region",
		Meaning: "A schema of the policy gives the key data classes, and the policy's residency data does not let a node of this region keep one of them, or does not know it. Nothing was written: a node that may not have a record gets nothing that its writer says afterwards.",
		Fix:     "Run bailiwick why with the ID that the message ends in for the node and the class. Add its zone or region to a geography of the class (residency in the global policy's data), write the key in another region, or make the zone a region of its own.",
	},
	{
		Code: "BW7033", Is: app.ErrLease, Exit: Denied,
		Title:   "The autonomy lease has run out",
		Meaning: "The node has not heard from its region's authority for longer than the lease, and the degraded mode forbids this. What is running goes on as the mode says; nothing stored is lost.",
		Fix:     "Bring the node back in reach of the authority; authority.lease and authority.degraded say how long and what then. bailiwick status shows the lease.",
	},
	{
		Code: "BW8001", Is: app.ErrContained, Exit: Denied,
		Title:   "The peer is shut out here",
		Meaning: "It is held, quarantined or revoked: nothing is served to it, relayed for it or issued to it. Its last good state stays readable.",
		Fix:     "Run bailiwick quarantine show ID for the evidence; after the cause is removed, the authority lifts it with bailiwick quarantine release ID --reason TEXT.",
	},
}
