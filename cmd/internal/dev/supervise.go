package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

const (
	supervisor   = "supervisor"
	restartPause = 500 * time.Millisecond
	stopPatience = 5 * time.Second
)

// Supervisor owns the fleet's processes: the software TPMs, the nodes, the
// sample workloads. A child that is killed comes back, as under systemd with
// Restart=on-failure; one that ends in order stays down until the next start.
type Supervisor struct {
	fleet *Fleet
	exe   string
	log   *slog.Logger

	mu       sync.Mutex
	children map[string]*exec.Cmd // started and not yet waited for; guarded by mu
	stopping bool                 // guarded by mu
	waits    sync.WaitGroup
}

// Supervise provisions the fleet if need be, starts what is not running, calls
// started, and keeps it all running until ctx ends; then it stops everything in
// the reverse order. SIGHUP starts what has been stopped meanwhile. Errors wrap
// ErrRunning, maker's, or the file system's.
func Supervise(ctx context.Context, projectDir string, progress func(string), started func(*Fleet)) (err error) {
	fleet, err := open(projectDir)
	if err != nil {
		return err
	}
	if _, ok := running(fleet, supervisor); ok {
		return fmt.Errorf("%s: %w", fleet.Dir, ErrRunning)
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s := &Supervisor{fleet: fleet, exe: exe, children: map[string]*exec.Cmd{}, log: slog.Default()}
	s.sweep() // what an earlier supervisor left when it was killed
	if err := remember(fleet, supervisor, os.Getpid()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(pidFile(fleet, supervisor))) }()

	tpms, err := s.start(ctx, progress)
	defer func() {
		s.stop()
		for _, t := range tpms {
			err = errors.Join(err, t.Stop())
		}
	}()
	if err != nil {
		return err
	}
	started(fleet)

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			if err := s.startChildren(); err != nil {
				s.log.Error("start again", "err", err)
			}
		}
	}
}

// start brings up the TPMs, provisions what depends on them, then the rest.
func (s *Supervisor) start(ctx context.Context, progress func(string)) ([]*maker.SoftTPM, error) {
	if err := s.fleet.addresses(); err != nil {
		return nil, err
	}
	progress("making TPMs and keys")
	tpms, err := equip(ctx, s.fleet)
	if err != nil {
		return tpms, err
	}
	if err := s.links(); err != nil {
		return tpms, err
	}
	progress("starting nodes")
	return tpms, s.startChildren()
}

// links gives each workload identity a program file of its own: the sidecar
// knows a caller by its executable's path.
func (s *Supervisor) links() error {
	bin := filepath.Join(s.fleet.Dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	for _, w := range s.fleet.Workloads {
		path := s.fleet.program(w)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if os.Link(s.exe, path) == nil {
			continue
		}
		b, err := os.ReadFile(s.exe) // another file system: a copy does as well
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) program(w Workload) string { return filepath.Join(f.Dir, "bin", w.Program) }

// startChildren starts every node and workload that is not running.
func (s *Supervisor) startChildren() error {
	for _, n := range s.fleet.Nodes {
		if err := s.launch(n.Name, filepath.Join(n.Dir, "log"), s.exe, "run", "--config", n.Config); err != nil {
			return err
		}
	}
	for _, w := range s.fleet.Workloads {
		args := []string{"dev", "workload", "call", "--address", w.Address.String(), "--service", w.Calls, "--counters", filepath.Join(s.fleet.RunDir, w.Name+".json")}
		if w.Serves != "" {
			args = []string{"dev", "workload", "serve", "--address", w.Address.String(), "--service", w.Serves}
		}
		if err := s.launch(w.Name, filepath.Join(s.fleet.RunDir, w.Name+".log"), s.fleet.program(w), args...); err != nil {
			return err
		}
	}
	return nil
}

// launch starts one child under its name unless it runs, and brings it back
// whenever it fails.
func (s *Supervisor) launch(name, logPath, program string, args ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || s.children[name] != nil {
		return nil
	}
	cmd, log, err := command(logPath, program, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer log.Close() // the child has its own
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.children[name] = cmd
	s.waits.Go(func() {
		err := cmd.Wait()
		s.mu.Lock()
		delete(s.children, name)
		stopping := s.stopping
		s.mu.Unlock()
		if err == nil || stopping {
			return
		}
		s.log.Warn("ended; starting it again", "name", name, "err", err)
		time.Sleep(restartPause)
		if err := s.launch(name, logPath, program, args...); err != nil {
			s.log.Error("restart", "name", name, "err", err)
		}
	})
	return remember(s.fleet, name, cmd.Process.Pid)
}

// stop ends all children: workloads first, then nodes.
func (s *Supervisor) stop() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	for _, name := range s.fleet.processes() {
		if err := end(s.fleet, name, stopPatience); err != nil {
			s.log.Error("stop", "err", err)
		}
	}
	s.waits.Wait()
}

// sweep ends what a killed supervisor left behind.
func (s *Supervisor) sweep() {
	for _, name := range s.fleet.processes() {
		if err := end(s.fleet, name, stopPatience); err != nil {
			s.log.Error("sweep", "err", err)
		}
	}
}

// processes lists the names of all children, in the order of stopping.
func (f *Fleet) processes() (out []string) {
	for _, w := range f.Workloads {
		out = append(out, w.Name)
	}
	for _, n := range slices.Backward(f.Nodes) {
		out = append(out, n.Name)
	}
	return out
}

// Detach starts a supervisor that outlives this command, or tells the running
// one to start what is stopped.
func Detach(projectDir string) (*Fleet, error) {
	fleet, err := open(projectDir)
	if err != nil {
		return nil, err
	}
	if p, ok := running(fleet, supervisor); ok {
		return fleet, syscall.Kill(p.PID, syscall.SIGHUP)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd, log, err := command(filepath.Join(fleet.Dir, "supervisor.log"), exe, "dev", "supervise")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	cmd.Dir = projectDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	failed := make(chan error, 1)
	go func() { failed <- cmd.Wait() }()
	for {
		select {
		case err := <-failed:
			return nil, &Ended{Code: cmd.ProcessState.ExitCode(), Said: saidSince(log.Name(), before), err: err}
		case <-time.After(50 * time.Millisecond):
			if p, ok := running(fleet, supervisor); ok && p.PID == pid {
				return open(projectDir)
			}
		}
	}
}

// Ended is the error of a supervisor that ended before the fleet was there.
type Ended struct {
	Code int    // its exit code; -1 when a signal ended it
	Said string // what it wrote last: as a command, the error with its code and the fix
	err  error
}

func (e *Ended) Error() string { return fmt.Sprintf("the supervisor ended (%v): %s", e.err, e.Said) }

// Unwrap returns how the process ended.
func (e *Ended) Unwrap() error { return e.err }

// saidSince is what was written to a log beyond an offset, as far as it is of use
// in an error.
func saidSince(path string, offset int64) string {
	const enough = 4 << 10
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, offset, enough))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// Stop ends the fleet, keeping its state.
func Stop(f *Fleet) error {
	if _, ok := running(f, supervisor); !ok {
		return ErrNotRunning
	}
	return end(f, supervisor, 4*stopPatience)
}

// Clean ends the fleet and removes everything it kept.
func Clean(projectDir string) error {
	fleet, err := Find(projectDir)
	if errors.Is(err, ErrNoFleet) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := Stop(fleet); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	(&Supervisor{fleet: fleet, log: slog.Default()}).sweep()
	return errors.Join(os.RemoveAll(fleet.RunDir), os.RemoveAll(fleet.Dir))
}
