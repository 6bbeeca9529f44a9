package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait: a step of a cell takes a few seconds at most, on a
// machine that runs all cells at once.
const patience = 60 * time.Second

// process is a program that runs beside the tests. What it says is in log.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it ended; err is set then
	err  error
}

// start runs a program until the test ends. Its log is shown if the test fails.
func start(t *testing.T, dir, name string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append(os.Environ(), env...), out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
		out.Close()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of %s:\n%s", p.log, p.tail(15))
		}
		p.stop(syscall.SIGTERM)
	})
	return p
}

// stop ends it and returns when it is gone.
func (p *process) stop(sig syscall.Signal) {
	if !p.running() {
		return
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended by now
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) tail(lines int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// run runs a command, which must succeed, and returns what it said.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := output(t, program, args...)
	must(t, err)
	return out
}

// output runs a command to its end and returns what it said.
func output(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// eventually asks until fn has nothing to complain about.
func eventually(t *testing.T, what string, fn func() error) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: after %s: %v", what, patience, err)
		}
	}
}

// folder is a short one: unix sockets must fit into 107 bytes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bwi")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// freePort returns a port that nobody has at present.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t *testing.T, dir, name, text string, args ...any) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, fmt.Appendf(nil, text, args...), 0o600))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
