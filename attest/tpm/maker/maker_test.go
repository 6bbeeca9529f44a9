package maker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// tempDir is short enough for a socket, whatever the test is called.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func manufacture(t *testing.T, ca *CA, dir string, opts ...Option) *SoftTPM {
	t.Helper()
	s, err := ca.Manufacture(t.Context(), dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// state is what must survive a power cycle: the machine's name and its boot.
func state(t *testing.T, s *SoftTPM) (ek [32]byte, pcrs map[int][32]byte) {
	t.Helper()
	d, err := tpm.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	keys, err := tpm.OpenKeys(d, filepath.Join(s.Dir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if pcrs, err = d.PCRs(); err != nil {
		t.Fatal(err)
	}
	return keys.EKHash(), pcrs
}

func TestPowerCycle(t *testing.T) {
	ca, dir := newCA(t), tempDir(t)
	s := manufacture(t, ca, dir)
	ek, pcrs := state(t, s)
	log, err := os.ReadFile(s.BootLog())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eventlog.Verify(log, pcrs); err != nil {
		t.Errorf("boot log after manufacture: %v", err)
	}

	again := manufacture(t, ca, dir) // finds it running, extends nothing
	if ek2, pcrs2 := state(t, again); ek2 != ek || pcrs2[8] != pcrs[8] {
		t.Errorf("re-attached: EK %x PCR 8 %x, want %x %x", ek2, pcrs2[8], ek, pcrs[8])
	}
	if again.PID() != s.PID() || s.PID() == 0 {
		t.Errorf("re-attached to process %d, want %d", again.PID(), s.PID())
	}
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(dir); !errors.Is(err, ErrSwtpm) {
		t.Errorf("attach to a stopped TPM: %v, want %v", err, ErrSwtpm)
	}

	cycled := manufacture(t, ca, dir)
	if ek3, pcrs3 := state(t, cycled); ek3 != ek || pcrs3[8] != pcrs[8] {
		t.Errorf("after power cycle: EK %x PCR 8 %x, want %x %x", ek3, pcrs3[8], ek, pcrs[8])
	}
}

func TestTamperSurvivesAttach(t *testing.T) {
	ca, dir := newCA(t), tempDir(t)
	s := manufacture(t, ca, dir)
	d, err := tpm.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Extend(8, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	_, tampered := state(t, s)
	if _, after := state(t, manufacture(t, ca, dir)); after[8] != tampered[8] {
		t.Error("attaching to a running TPM changed PCR 8")
	}
}

func TestInterruptedManufacture(t *testing.T) {
	ca, dir := newCA(t), tempDir(t)
	s := manufacture(t, ca, dir)
	ek, _ := state(t, s)
	if err := os.Remove(s.BootLog()); err != nil { // the file that says it is finished
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	if again, _ := state(t, manufacture(t, ca, dir)); again == ek {
		t.Error("an unfinished TPM was kept")
	}
}

func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	s := manufacture(t, newCA(t), dir)
	state(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(strings.TrimPrefix(s.Path(), "unix:"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's short folder was left behind: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	silent := Swtpm{Exec: "/bin/sleep"} // exits: it does not know the arguments
	if _, err := newCA(t).Manufacture(ctx, tempDir(t), With(silent)); err == nil {
		t.Error("a TPM from a program that is none")
	}
}

func TestLoadCA(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadCA(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("empty directory: %v", err)
	}
	made, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Root().Equal(made.Root()) {
		t.Error("loaded another root")
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(dir); !errors.Is(err, ErrCA) {
		t.Errorf("damaged key: %v, want %v", err, ErrCA)
	}
}

// helperEnv makes the test binary a process that makes a TPM and dies.
const helperEnv = "BAILIWICK_TEST_MAKER"

func TestMain(m *testing.M) {
	dir := os.Getenv(helperEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	var opts []Option
	if strings.HasSuffix(dir, "detached") {
		opts = append(opts, Detached())
	}
	ca, err := OpenCA(filepath.Join(dir, "ca"))
	if err == nil {
		_, err = ca.Manufacture(context.Background(), dir, opts...)
	}
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

func TestParentDies(t *testing.T) {
	for _, name := range []string{"attached", "detached"} {
		dir := filepath.Join(tempDir(t), name)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helperEnv+"="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if name == "detached" {
			s, err := Attach(dir)
			if err != nil {
				t.Fatalf("a detached TPM is gone: %v", err)
			}
			state(t, s)
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := at(dir)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); s.answers(); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the TPM runs on", name)
			}
		}
	}
}

func TestFindSwtpm(t *testing.T) {
	if _, err := FindSwtpm(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	t.Chdir(t.TempDir())
	t.Setenv(RootEnv, "")
	if _, err := FindSwtpm(); !errors.Is(err, ErrNoSwtpm) {
		t.Errorf("nothing anywhere: %v, want %v", err, ErrNoSwtpm)
	}
	root := t.TempDir()
	for path, mode := range map[string]os.FileMode{
		"usr/bin/swtpm":                                     0o755,
		"usr/lib/x86_64-linux-gnu/libtpms.so.0":             0o644,
		"usr/lib/x86_64-linux-gnu/swtpm/libswtpm_libs.so.0": 0o644,
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(RootEnv, root)
	s, err := FindSwtpm()
	if err != nil || len(s.Libraries) != 2 {
		t.Errorf("unpacked: %+v, %v; want two library directories", s, err)
	}
}
