package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one child as kept on disk, so that another command can end exactly
// it: a process ID alone may belong to somebody else by then.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat
}

func pidFile(f *Fleet, name string) string { return filepath.Join(f.RunDir, name+".pid") }

// startTime returns when a process began, in the kernel's ticks, or "".
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// remember notes a started process under a name.
func remember(f *Fleet, name string, pid int) error {
	b, err := json.Marshal(process{PID: pid, Start: startTime(pid)})
	if err != nil {
		return err
	}
	return writeFile(pidFile(f, name), b, 0o600)
}

// running returns the process remembered under a name if it still is that one.
func running(f *Fleet, name string) (process, bool) {
	var p process
	b, err := os.ReadFile(pidFile(f, name))
	if err != nil || json.Unmarshal(b, &p) != nil || p.PID <= 1 {
		return process{}, false
	}
	return p, p.Start != "" && startTime(p.PID) == p.Start
}

// end asks a remembered process to stop, and kills it where it has not after
// the given time.
func end(f *Fleet, name string, patience time.Duration) error {
	p, ok := running(f, name)
	if !ok {
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, ok := running(f, name); !ok {
			return nil
		}
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return nil
}

// command prepares a child whose output goes to a log file.
func command(logPath, program string, args ...string) (*exec.Cmd, *os.File, error) {
	if err := os.MkdirAll(filepath.Dir(logPath), 0o700); err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the supervisor, which ends its children in order
	return cmd, log, nil
}
