// Package maker makes software TPMs for development fleets and tests: what a chip
// maker and the firmware do for a real one.
//
// A SoftTPM is one swtpm process and one directory:
//
//	state/        swtpm's own
//	bootlog       what this node's software boot measured, made once
//	swtpm.pid     the process that runs now
//	swtpm.log     what it complained about
//	tpm.sock      where it answers; in a short directory of its own under the
//	              system's temporary directory if the path would be too long
//
// Manufacture does once what factories do: it keeps the SHA-256 PCR bank only,
// makes the EK (RSA-2048, template L-1), issues a certificate for it under a CA,
// and writes that and the intermediate's into NV as TCG says (EK Credential Profile
// 2.6 §2.2.1). The last file written is bootlog, so a directory without it is
// made anew. Each time the TPM was powered up it extends the boot log once: its PCRs
// are zero exactly then, whoever started it.
//
// The certificates say that nothing here is hardware. A CA made here must never be
// a root outside development.
package maker
