package maker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoSwtpm means there is no software TPM on this machine.
var ErrNoSwtpm = errors.New("swtpm not found: run `make deps`, or install it (apt-get install swtpm)")

// RootEnv names the directory into which swtpm's Debian packages were unpacked.
const RootEnv = "BAILIWICK_SWTPM_ROOT"

// Swtpm is an swtpm program and what it needs to run. The zero value cannot run.
type Swtpm struct {
	Exec      string   // absolute path of the program
	Libraries []string // directories of its shared libraries; none if it is installed
}

// FindSwtpm looks for swtpm: on PATH, under $BAILIWICK_SWTPM_ROOT, and under
// .cache/swtpm/root of the working directory and the directories above it.
func FindSwtpm() (Swtpm, error) {
	if path, err := exec.LookPath("swtpm"); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return Swtpm{Exec: path}, nil
		}
	}
	var roots []string
	if root := os.Getenv(RootEnv); root != "" {
		roots = append(roots, root)
	}
	dir, err := os.Getwd()
	if err != nil {
		return Swtpm{}, fmt.Errorf("%w: %w", ErrNoSwtpm, err)
	}
	for {
		roots = append(roots, filepath.Join(dir, ".cache", "swtpm", "root"))
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	for _, root := range roots {
		if s, ok := unpacked(root); ok {
			return s, nil
		}
	}
	return Swtpm{}, ErrNoSwtpm
}

// unpacked is an swtpm under a directory that holds unpacked packages.
func unpacked(root string) (Swtpm, bool) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Swtpm{}, false
	}
	s := Swtpm{Exec: filepath.Join(root, "usr", "bin", "swtpm")}
	if info, err := os.Stat(s.Exec); err != nil || info.Mode()&0o111 == 0 {
		return Swtpm{}, false
	}
	for _, pattern := range []string{"usr/lib/*/swtpm", "usr/lib/*-linux-gnu*", "usr/lib/swtpm", "usr/lib"} {
		dirs, _ := filepath.Glob(filepath.Join(root, pattern)) // the pattern is well formed
		for _, dir := range dirs {
			if libs, _ := filepath.Glob(filepath.Join(dir, "*.so*")); len(libs) > 0 {
				s.Libraries = append(s.Libraries, dir)
			}
		}
	}
	return s, true
}

// command is swtpm over a unix socket, powered up and ready for commands.
func (s Swtpm) command(state, socket string) *exec.Cmd {
	cmd := exec.Command(s.Exec, "socket", "--tpm2",
		"--tpmstate", "dir="+state,
		"--server", "type=unixio,path="+socket+",mode=0600",
		"--flags", "not-need-init,startup-clear")
	if len(s.Libraries) > 0 {
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(s.Libraries, ":"))
	}
	return cmd
}
