package explain

import (
	"github.com/bailiwick-mesh/bailiwick/attest/caller"
	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// machines is BW3: TPMs, boot logs and local processes. A software TPM's
// trouble shows as a device error and a refusal may have the boot log as its
// cause, so maker and eventlog come first.
var machines = []Entry{
	{
		Code: "BW3001", Is: maker.ErrNoSwtpm,
		Title:   "No software TPM on this machine",
		Meaning: "The dev fleet and the tests give every node a TPM of its own and found no swtpm to run. Nothing was started.",
		Fix:     "Run make deps, which unpacks Debian's swtpm without root, or install it: apt-get install swtpm.",
	},
	{
		Code: "BW3002", Is: maker.ErrSwtpm,
		Title:   "The software TPM ended or does not answer",
		Meaning: "swtpm did not start, stopped, or is not the process that was started. Its state on disk was kept.",
		Fix:     "Read swtpm.log in the folder the message names; stop the fleet with bailiwick dev stop and start it again.",
	},
	{
		Code: "BW3003", Is: maker.ErrCA,
		Title:   "The dev TPM maker's CA is damaged",
		Meaning: "The files of the CA that certifies software TPMs do not belong together. TPMs made before keep their certificates.",
		Fix:     "Remove the dev fleet's state with bailiwick dev clean and start it again.",
	},
	{
		Code: "BW3004", Is: eventlog.ErrReplay, Exit: Denied,
		Title:   "The boot log does not replay to the PCR values",
		Meaning: "Something was measured that the log does not tell, or the log is from another boot. The machine's evidence is refused until the two agree.",
		Fix:     "Check tpm.boot_log, and find what extended the PCR the message names; then reboot, which resets the PCRs. If nothing explains it, treat the machine as changed.",
	},
	{
		Code: "BW3005", Is: eventlog.ErrUncapped, Exit: Denied,
		Title:   "The firmware left a PCR open",
		Meaning: "A firmware PCR has no separator, so whatever ran later could have measured into it. The machine's evidence is refused.",
		Fix:     "Update the firmware or its settings; a machine whose firmware never writes separators cannot be attested.",
	},
	{
		Code: "BW3006", Is: eventlog.ErrTooLarge,
		Title:   "The boot log is larger than 1 MiB",
		Meaning: "No firmware writes that much, so the file is not the boot log. Nothing was sent.",
		Fix:     "Set tpm.boot_log to /sys/kernel/security/tpm0/binary_bios_measurements.",
	},
	{
		Code: "BW3007", Is: eventlog.ErrMalformed,
		Title:   "Not a boot log with SHA-256 digests",
		Meaning: "The bytes are no crypto-agile TCG log. A TPM 1.2 machine or one that only measures in SHA-1 ends here too.",
		Fix:     "Enable the SHA-256 PCR bank in the firmware settings and reboot; check tpm.boot_log.",
	},
	{
		Code: "BW3008", Is: tpm.ErrOtherTPM,
		Title:   "The key files do not belong to this TPM",
		Meaning: "They were made by another TPM, or by this one before it was cleared. Nobody can use them any more; they were left where they are, as tpm.mode is required.",
		Fix:     "Start the node once with bailiwick run --tpm=auto: it sets them aside, makes new keys and enrols again, and loses no state. If the EK changed too, give the issuer the entry that the node then names.",
	},
	{
		Code: "BW3009", Is: tpm.ErrKeyFile,
		Title:   "A TPM key file is damaged",
		Meaning: "The file cannot be read as a TPM-wrapped key. The other keys were not touched.",
		Fix:     "Restore the named file from a backup, or move it away and start the node: it makes a new key and enrols again.",
	},
	{
		Code: "BW3010", Is: tpm.ErrCounter,
		Title:   "The NV index of a counter is taken",
		Meaning: "Something else defined the TPM index that bailiwick counts starts or epochs in, so the node cannot tell a restored disk from its own.",
		Fix:     "Find what uses the index the message names (tpm2_nvreadpublic), then free it: tpm2_nvundefine INDEX.",
	},
	{
		Code: "BW3011", Is: tpm.ErrLockout,
		Title:   "The TPM is locked against guessing",
		Meaning: "After too many wrong authorizations by somebody the TPM refuses them all for a time. The node keeps its keys.",
		Fix:     "Wait for the TPM's recovery time, or run tpm2_dictionarylockout --clear-lockout; find who guessed.",
	},
	{
		Code: "BW3012", Is: tpm.ErrHierarchyAuth,
		Title:   "A TPM hierarchy has a password",
		Meaning: "Somebody set a password on the owner or endorsement hierarchy. Bailiwick uses both without one.",
		Fix:     "Clear it: tpm2_changeauth -c owner -p OLD, and the same with -c endorsement.",
	},
	{
		Code: "BW3013", Is: tpm.ErrActivation,
		Title:   "The TPM refused the credential of the challenge",
		Meaning: "The issuer made its challenge for another TPM or another attestation key, so this machine cannot prove itself with it.",
		Fix:     "Start the node again for a fresh exchange; if it repeats, move <state>/keys away so that new keys are made, and check that no proxy stands between node and issuer.",
	},
	{
		Code: "BW3014", Is: tpm.ErrChallenge,
		Title:   "The attestation challenge is not acceptable",
		Meaning: "The verifier sent something no honest issuer sends. The TPM signed nothing.",
		Fix:     "Check that enrol.issuers names the region's issuer and that both run the same version.",
	},
	{
		Code: "BW3015", Is: tpm.ErrRefused, Exit: Denied,
		Title:   "The node's evidence was refused",
		Meaning: "The issuer judged the TPM's evidence and a named check failed. The same evidence will never pass; the node gets no identity by it.",
		Fix:     "Act on the check the message names: ek-chain and ek-denied are up to the issuer (issuer.ek_roots, ek_allow, ek_deny), boot-log-* to what was booted; any other means that keys, counters or channel are not the node's own.",
	},
	{
		Code: "BW3016", Is: tpm.ErrDigest,
		Title:   "TPM keys sign SHA-256 digests only",
		Meaning: "A program asked a TPM key to sign something else. Nothing was signed.",
		Fix:     "Report it with the log: it is a mistake in the program, not in the configuration.",
	},
	{
		Code: "BW3017", Is: tpm.ErrDevice,
		Title:   "The TPM cannot be reached",
		Meaning: "The device cannot be opened, or what is there does not answer as a TPM 2.0. Keys inside the TPM are not harmed.",
		Fix:     "Check tpm.device with bailiwick check tpm DEVICE: that it exists (ls -l /dev/tpmrm0; /dev/tpm0 cannot be shared), and that the node's user may open it (group tss).",
	},
	{
		Code: "BW3018", Is: caller.ErrChanged, Exit: Denied,
		Title:   "The local process is not the one that was attributed",
		Meaning: "It runs another program or user than when its socket was attributed, or shares the socket. What it was given has been withdrawn.",
		Fix:     "Let the process connect again; if it repeats, connect only after exec and do not pass the socket on to other programs.",
	},
	{
		Code: "BW3019", Is: caller.ErrGone,
		Title:   "The local process has ended",
		Meaning: "The process ended or closed its socket before it could be identified. Nothing was given to anyone.",
		Fix:     "Nothing needs to be done; a new connection is attributed afresh.",
	},
	{
		Code: "BW3020", Is: caller.ErrNoSocket,
		Title:   "No such local socket",
		Meaning: "No socket of this machine has these addresses: it was closed meanwhile, or belongs to another network namespace. Nothing was given to anyone.",
		Fix:     "Start the process that should listen or connect, in the sidecar's network namespace.",
	},
	{
		Code: "BW3021", Is: caller.ErrUnattributed, Exit: Denied,
		Title:   "A socket cannot be attributed to a local process",
		Meaning: "No single program of this machine could be shown to own the socket, so the connection was refused.",
		Fix:     "Run the sidecar as root or with CAP_SYS_PTRACE if it serves other users, and run the workload in the sidecar's network and PID namespace; the message says which it was.",
	},
	{
		Code: "BW3024", Is: keyfile.ErrDamaged,
		Title:   "A key file is damaged",
		Meaning: "It holds no P-256 key in PKCS #8. It was left as it is, and no other key was touched.",
		Fix:     "Restore the file the message names from its backup. A node's own key (below <state>/keys) may be removed instead: the node then enrols again.",
	},
	{
		Code: "BW3025", Is: keyfile.ErrExposed,
		Title:   "A key file can be read by others",
		Meaning: "Whoever read it can sign as its owner. The key was not used.",
		Fix:     "Run chmod 600 on the file the message names; if anyone else had access, replace the key and what certifies it.",
	},
	{
		Code: "BW3028", Is: keyfile.ErrMissing,
		Title:   "There is no such key file",
		Meaning: "A key that signs has to be there already: a new one would be known to nobody. None was made, and nothing was signed.",
		Fix:     "Name the file that holds the key; a relative path starts in the folder where the command runs. bailiwick trust init makes the keys of a region and of a level below it.",
	},
	{
		Code: "BW3026", Is: tpm.ErrSealed,
		Title:   "Not a secret sealed by a TPM",
		Meaning: "The file is damaged or something else, or what should be sealed is too large for a TPM. Nothing was opened or written.",
		Fix:     "Restore the file the message names from a backup, or let the node enrol again, which makes a new one.",
	},
	{
		Code: "BW3027", Is: tpm.ErrDevID,
		Title:   "A DevID cannot be used",
		Meaning: "A file of the DevID is damaged or another TPM's, or this TPM has no RSA endorsement key with a certificate, which SPIRE's tpm_devid asks for. The machine proved nothing by it.",
		Fix:     "Have the DevID of this machine's TPM issued again; without an RSA endorsement certificate, use another way of attestation.",
	},
}
