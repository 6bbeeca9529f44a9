package tpmcheck

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// Status is what a check came to.
type Status string

// The statuses, from good to bad.
const (
	OK   Status = "ok"
	Warn Status = "warn" // a node attests all the same, or its policy may not let it
	Fail Status = "fail" // no node can attest by this TPM until it is mended
)

// Finding is one check.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Found  string `json:"found"`
	Fix    string `json:"fix,omitempty"` // of everything that is not ok
}

// Subject is what to look at.
type Subject struct {
	Device  string        // as tpm.Open takes it
	BootLog string        // path
	Keys    string        // folder of the node's key files; empty: not known
	Issuer  *tpm.Verifier // how the issuer judges EKs; nil: not known
	Node    spiffeid.ID   // whose machine it is; zero: not known
}

// slow is how long a signature may take before every handshake waits noticeably.
const slow = 100 * time.Millisecond

// Run makes all checks. The error is that of the device, if it cannot be opened: it is
// in the findings too.
func Run(s Subject, now time.Time) ([]Finding, error) {
	d, err := tpm.Open(s.Device)
	if err != nil {
		return []Finding{{"device", Fail, err.Error(), deviceFix(s.Device, err)}}, err
	}
	defer d.Close()
	r := &run{Subject: s, device: d, now: now}
	r.ok("device", "%s answers", s.Device)
	if in, err := d.Inspect(); err != nil {
		r.add("maker", Fail, err.Error(), "update the firmware of the TPM: it does not answer what every TPM 2.0 does")
	} else {
		r.state(in)
	}
	r.endorsement()
	r.boot()
	r.signing()
	r.keys()
	return r.findings, nil
}

// Worst is the worst status of all.
func Worst(findings []Finding) Status {
	worst := OK
	for _, f := range findings {
		if f.Status == Fail || f.Status == Warn && worst == OK {
			worst = f.Status
		}
	}
	return worst
}

type run struct {
	Subject
	device   *tpm.Device
	now      time.Time
	findings []Finding
}

func (r *run) ok(check, format string, args ...any) {
	r.findings = append(r.findings, Finding{Check: check, Status: OK, Found: fmt.Sprintf(format, args...)})
}

func (r *run) add(check string, status Status, found, fix string) {
	r.findings = append(r.findings, Finding{check, status, found, fix})
}

// state judges what the TPM says of itself.
func (r *run) state(in tpm.Inspection) {
	r.ok("maker", "%s %s, firmware %s", in.Maker, in.Model, in.Firmware)
	password := func(check, hierarchy string, set bool) {
		if set {
			r.add(check, Fail, "a password is set on the "+hierarchy+" hierarchy", "clear it: tpm2_changeauth -c "+hierarchy+" -p OLD")
			return
		}
		r.ok(check, "no password")
	}
	password("owner", "owner", in.OwnerPassword)
	password("endorsement", "endorsement", in.EndorsementPassword)
	lockout(r, in)
	if slices.Contains(in.Banks, "sha256") {
		r.ok("banks", "%s", strings.Join(in.Banks, ", "))
	} else {
		r.add("banks", Fail, "PCR banks in use: "+orNone(in.Banks)+"; sha256 is not", "switch the SHA-256 bank on in the firmware settings, or tpm2_pcrallocate sha256:all, and reboot")
	}
	switch {
	case in.CounterTaken != nil:
		r.add("counters", Fail, in.CounterTaken.Error(), "find what uses the index (tpm2_nvreadpublic), then free it: tpm2_nvundefine INDEX")
	case in.Counters == tpm.Counters{}:
		r.ok("counters", "none yet: the node makes them at its first start")
	default:
		r.ok("counters", "starts %d, epoch %d", in.Counters.Starts, in.Counters.Epoch)
	}
}

func lockout(r *run, in tpm.Inspection) {
	found := fmt.Sprintf("%d of %d wrong authorizations, one is forgiven every %s", in.Failures, in.MaxFailures, in.Forgives)
	switch {
	case in.InLockout:
		r.add("lockout", Fail, "in lockout: "+found, "wait, or tpm2_dictionarylockout --clear-lockout; find out who guessed")
	case in.Failures > 0:
		r.add("lockout", Warn, found, "find out who guesses: at the limit the TPM locks; tpm2_dictionarylockout --clear-lockout resets it")
	default:
		r.ok("lockout", "%s", found)
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// endorsement judges the endorsement key as the issuer will.
func (r *run) endorsement() {
	ek, err := r.device.EndorsementKey()
	switch {
	case errors.Is(err, tpm.ErrHierarchyAuth):
		return // told already
	case err != nil:
		r.add("ek-certificate", Fail, err.Error(), "make the endorsement key usable again: a firmware update may have changed it; ask the maker of the machine")
		return
	case len(ek.Certificates) == 0:
		allow := fmt.Sprintf("let the issuer accept this TPM by its hash: issuer.ek_allow: [%x]", ek.Hash)
		r.add("ek-certificate", Warn, fmt.Sprintf("none for RSA-2048, P-256 or P-384; EK hash %x", ek.Hash), allow+r.entry(ek))
	default:
		r.ok("ek-certificate", "%s, EK hash %x", ek.Kind, ek.Hash)
	}
	if r.Issuer == nil {
		return
	}
	if err := r.Issuer.CheckEK(r.now, ek); err != nil {
		r.add("ek-chain", Fail, err.Error(), fmt.Sprintf("add the maker's root to issuer.ek_roots, or this TPM to issuer.ek_allow: [%x]", ek.Hash)+r.entry(ek))
		return
	}
	r.ok("ek-chain", "the issuer of this configuration accepts it")
}

func (r *run) entry(ek tpm.EndorsementKey) string {
	if r.Node.IsZero() {
		return ""
	}
	return fmt.Sprintf("; its entry is {id: %s, ek: %x}", r.Node, ek.Hash)
}

// boot replays the firmware's log.
func (r *run) boot() {
	pcrs, err := r.device.PCRs()
	if err != nil {
		return // the bank is off: told already
	}
	log, err := read(r.BootLog)
	if err != nil {
		r.add("boot-log", Fail, err.Error(), "set tpm.boot_log; /sys/kernel/security/tpm0/binary_bios_measurements needs securityfs (mount -t securityfs securityfs /sys/kernel/security) and root or CAP_DAC_READ_SEARCH to read it")
		return
	}
	facts, err := eventlog.Verify(log, pcrs)
	if err != nil {
		r.add("boot-log", Fail, err.Error(), "check that tpm.boot_log is of this boot and this TPM; if nothing explains it, treat the machine as changed")
		return
	}
	r.ok("boot-log", "explains the PCRs %s", list(facts.Explained))
	if !facts.SecureBoot {
		r.add("secure-boot", Warn, "the log does not prove that secure boot is on", "switch it on in the firmware settings, or declare an exception in the policy's data (attest.secure_boot_exceptions)")
		return
	}
	r.ok("secure-boot", "on")
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, eventlog.MaxSize+1)) // one byte too many is told as such
}

func list[T any](items []T) string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = fmt.Sprint(item)
	}
	return strings.Join(out, ", ")
}

func (r *run) signing() {
	took, err := r.device.SigningTime()
	switch {
	case err != nil:
		r.add("signing", Fail, err.Error(), "a TPM that cannot sign with ECDSA on P-256 is of no use here")
	case took > slow:
		r.add("signing", Warn, fmt.Sprintf("a signature takes %.1f ms, and every TLS handshake one", milliseconds(took)), "keep the node's key in memory, bound to the TPM's evidence: tpm.node_key: attested")
	default:
		r.ok("signing", "a signature takes %.1f ms", milliseconds(took))
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// keys opens the node's keys, but only where all files are there: it makes none.
func (r *run) keys() {
	if r.Keys == "" {
		return
	}
	for _, name := range []string{tpm.NodeKeyFile, tpm.TrailKeyFile} {
		if _, err := os.Stat(filepath.Join(r.Keys, name)); err != nil {
			r.ok("keys", "none in %s yet: the node makes them at its first start", r.Keys)
			return
		}
	}
	_, err := tpm.OpenKeys(r.device, r.Keys)
	switch {
	case errors.Is(err, tpm.ErrOtherTPM):
		r.add("keys", Fail, err.Error(), "start the node with bailiwick run --tpm=auto: it sets them aside, makes new ones and enrols again")
	case errors.Is(err, tpm.ErrHierarchyAuth): // told already
	case err != nil:
		r.add("keys", Fail, err.Error(), "restore the key files from their backup, or move them away: the node then makes new ones and enrols again")
	default:
		r.ok("keys", "those in %s are of this TPM", r.Keys)
	}
}
