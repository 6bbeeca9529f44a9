package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that is measured. What it says is in log.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it ended
}

func startProcess(dir, name, program string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // it is ended by a signal
		close(p.done)
	}()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
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

// tail is the end of what it said.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// memory is a process's resident and anonymous memory, in MB (10^6 bytes).
type memory struct{ resident, anonymous float64 }

func (m memory) String() string {
	return fmt.Sprintf("%.0f MB resident, %.0f MB of it anonymous", m.resident, m.anonymous)
}

// memory reads proc(5).
func (p *process) memory() (m memory, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return m, err
	}
	for name, v := range map[string]*float64{"VmRSS:": &m.resident, "RssAnon:": &m.anonymous} {
		_, rest, ok := strings.Cut(string(b), name)
		if !ok {
			return m, fmt.Errorf("/proc/%d/status lacks %s", p.cmd.Process.Pid, name)
		}
		kib, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			return m, err
		}
		*v = float64(kib) * 1024 / 1e6
	}
	return m, nil
}

// cpu is the processor time a process has had so far, user and system, to 10 ms:
// fields 14 and 15 of proc_pid_stat(5).
func (p *process) cpu() (time.Duration, error) {
	const tick = time.Second / 100 // USER_HZ
	path := fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(b, []byte(") ")) // the program's name may hold anything else
	fields := strings.Fields(string(rest))
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: %q", path, b)
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

// product builds the product as it ships, once a run.
var product = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join(".bench", "bailiwick"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", path, "./cmd/bailiwick")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the product: %w\n%s", err, out)
	}
	return path, nil
})

// until asks every few milliseconds until fn has nothing to complain about.
func until(p *process, fn func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(3 * time.Millisecond) {
		err := fn()
		if err == nil {
			return nil
		}
		if !p.running() {
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), p.tail())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w\n%s", patience, err, p.tail())
		}
	}
}

func writePEM(path, kind string, blocks ...[]byte) error {
	var b bytes.Buffer
	for _, der := range blocks {
		if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

func writeCertificates(path string, certs ...*x509.Certificate) error {
	var blocks [][]byte
	for _, c := range certs {
		blocks = append(blocks, c.Raw)
	}
	return writePEM(path, "CERTIFICATE", blocks...)
}
