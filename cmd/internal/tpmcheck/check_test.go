package tpmcheck

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

var node = spiffeid.RequireFromString("spiffe://east.dev.example/node/n1")

// find returns the finding of a check, and fails the test where there is none.
func find(t *testing.T, findings []Finding, check string) Finding {
	t.Helper()
	i := slices.IndexFunc(findings, func(f Finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("nothing about %s in %+v", check, findings)
	}
	return findings[i]
}

func TestSoftTPM(t *testing.T) {
	dir := t.TempDir()
	ca, err := maker.OpenCA(filepath.Join(dir, "maker"))
	if err != nil {
		t.Fatal(err)
	}
	soft, err := ca.Manufacture(context.Background(), filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := soft.Stop(); err != nil {
			t.Error(err)
		}
	}()
	s := Subject{Device: soft.Path(), BootLog: soft.BootLog(), Node: node, Keys: filepath.Join(dir, "keys"), Issuer: &tpm.Verifier{Roots: ca.Roots()}}
	look := func() []Finding {
		t.Helper()
		findings, err := Run(s, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return findings
	}
	fresh := look()
	var checks []string
	for _, f := range fresh {
		checks = append(checks, f.Check)
		if want := f.Check == "secure-boot"; (f.Status == Warn) != want || f.Status == Fail || (f.Fix != "") != want {
			t.Errorf("%+v", f)
		}
	}
	if want := "device maker owner endorsement lockout banks counters ek-certificate ek-chain boot-log secure-boot signing keys"; strings.Join(checks, " ") != want {
		t.Errorf("checks %v, want %s", checks, want)
	}
	if Worst(fresh) != Warn || !strings.Contains(find(t, fresh, "counters").Found, "none yet") || !strings.Contains(find(t, fresh, "keys").Found, "none in") {
		t.Errorf("%+v", fresh)
	}
	if again := look(); find(t, again, "counters") != find(t, fresh, "counters") || find(t, again, "keys") != find(t, fresh, "keys") {
		t.Error("looking changed the TPM or made keys")
	}

	d, err := tpm.Open(soft.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := tpm.OpenKeys(d, s.Keys); err != nil {
		t.Fatal(err)
	}
	if _, err := d.BumpStarts(); err != nil {
		t.Fatal(err)
	}
	if used := look(); !strings.Contains(find(t, used, "counters").Found, "starts ") || !strings.Contains(find(t, used, "keys").Found, "of this TPM") {
		t.Errorf("%+v", used)
	}

	s.Issuer = &tpm.Verifier{Roots: x509.NewCertPool()}
	if f := find(t, look(), "ek-chain"); f.Status != Fail || !strings.Contains(f.Fix, "issuer.ek_allow: [") || !strings.Contains(f.Fix, "{id: "+node.String()+", ek: ") {
		t.Errorf("%+v", f)
	}
	if err := d.Extend(4, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if f := find(t, look(), "boot-log"); f.Status != Fail || !strings.Contains(f.Found, "PCR 4") {
		t.Errorf("%+v", f)
	}
	s.BootLog = filepath.Join(dir, "none")
	if f := find(t, look(), "boot-log"); f.Status != Fail || !strings.Contains(f.Fix, "securityfs") {
		t.Errorf("%+v", f)
	}
	if err := soft.Clear(); err != nil {
		t.Fatal(err)
	}
	if f := find(t, look(), "keys"); f.Status != Fail || !strings.Contains(f.Fix, "--tpm=auto") {
		t.Errorf("%+v", f)
	}
}

func TestStates(t *testing.T) {
	good := tpm.Inspection{Maker: "M", Banks: []string{"sha256"}}
	for name, c := range map[string]struct {
		change func(*tpm.Inspection)
		check  string
		status Status
		fix    string
	}{
		"owner password":       {func(in *tpm.Inspection) { in.OwnerPassword = true }, "owner", Fail, "tpm2_changeauth -c owner"},
		"endorsement password": {func(in *tpm.Inspection) { in.EndorsementPassword = true }, "endorsement", Fail, "tpm2_changeauth -c endorsement"},
		"guesses":              {func(in *tpm.Inspection) { in.Failures, in.MaxFailures = 3, 32 }, "lockout", Warn, "find out who"},
		"lockout":              {func(in *tpm.Inspection) { in.InLockout = true }, "lockout", Fail, "--clear-lockout"},
		"only SHA-1":           {func(in *tpm.Inspection) { in.Banks = []string{"sha1"} }, "banks", Fail, "tpm2_pcrallocate sha256:all"},
		"counter taken":        {func(in *tpm.Inspection) { in.CounterTaken = tpm.ErrCounter }, "counters", Fail, "tpm2_nvundefine"},
	} {
		t.Run(name, func(t *testing.T) {
			in := good
			c.change(&in)
			var r run
			r.state(in)
			if f := find(t, r.findings, c.check); f.Status != c.status || !strings.Contains(f.Fix, c.fix) || Worst(r.findings) != c.status {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm")
	if err := os.WriteFile(path, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o660); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		device string
		err    error
		want   string
	}{
		"none":       {"/dev/tpmrm0", fs.ErrNotExist, "firmware settings"},
		"no socket":  {"unix:/nowhere", fs.ErrNotExist, "software TPM"},
		"not ours":   {path, fs.ErrPermission, "usermod -aG "},
		"nobody's":   {filepath.Join(path, "x"), fs.ErrPermission, "a user that may open"},
		"no TPM 2.0": {path, errors.New("junk"), "of a TPM 2.0"},
	} {
		if got := deviceFix(c.device, c.err); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q in it", name, got, c.want)
		}
	}
	findings, err := Run(Subject{Device: "unix:/nowhere"}, time.Now())
	if !errors.Is(err, tpm.ErrDevice) || len(findings) != 1 || findings[0].Status != Fail {
		t.Errorf("%+v, %v", findings, err)
	}
}
