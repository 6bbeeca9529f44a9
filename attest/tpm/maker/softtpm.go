package maker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// ErrSwtpm means swtpm ended or did not answer; what it said is in the error and in
// swtpm.log.
var ErrSwtpm = errors.New("swtpm")

// SoftTPM is a manufactured TPM that runs.
type SoftTPM struct {
	dir, socket string
	pid         int           // 0 if it was running and left no pid file
	exited      chan struct{} // closed when our child is gone; nil if it is not our child
}

// Option changes what Manufacture does.
type Option func(*options)

type options struct {
	swtpm    *Swtpm
	detached bool
	boot     eventlog.Boot
}

// With uses a given swtpm instead of looking for one.
func With(s Swtpm) Option { return func(o *options) { o.swtpm = &s } }

// Detached leaves the TPM running when this process ends. A later Manufacture in
// the same directory, or Attach, finds it again; Stop ends it.
func Detached() Option { return func(o *options) { o.detached = true } }

// Booting says what the node's boot log tells, when it is made for the first time.
func Booting(b eventlog.Boot) Option { return func(o *options) { o.boot = b } }

// Manufacture makes a software TPM in dir, or starts the one that was made there,
// or finds it running. It returns when the TPM answers and has measured its boot.
// Unless Detached, the TPM dies with this process.
func (ca *CA) Manufacture(ctx context.Context, dir string, opts ...Option) (*SoftTPM, error) {
	o := options{boot: eventlog.Boot{Firmware: "1", Loader: "software boot loader", CommandLine: "root=/dev/vda ro"}}
	for _, opt := range opts {
		opt(&o)
	}
	s, err := at(dir)
	if err != nil {
		return nil, err
	}
	if err := s.manufacture(ctx, ca, o); err != nil {
		return nil, errors.Join(fmt.Errorf("software TPM in %s: %w", dir, err), s.Stop())
	}
	return s, nil
}

// Attach finds the software TPM that runs in dir. The error is ErrSwtpm if none
// answers.
func Attach(dir string) (*SoftTPM, error) {
	s, err := at(dir)
	if err != nil {
		return nil, err
	}
	if !s.answers() {
		return nil, fmt.Errorf("%w: none runs in %s", ErrSwtpm, dir)
	}
	s.pid = s.readPID()
	return s, nil
}

func at(dir string) (*SoftTPM, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	socket, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	return &SoftTPM{dir: dir, socket: socket}, nil
}

// Path is what tpm.Open takes.
func (s *SoftTPM) Path() string { return "unix:" + s.socket }

// BootLog is the path of the boot log.
func (s *SoftTPM) BootLog() string { return filepath.Join(s.dir, "bootlog") }

// Dir is where the TPM lives.
func (s *SoftTPM) Dir() string { return s.dir }

// PID is the process that is the TPM, 0 if it is not known.
func (s *SoftTPM) PID() int { return s.pid }

func (s *SoftTPM) manufacture(ctx context.Context, ca *CA, o options) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	log, err := os.ReadFile(s.BootLog())
	made := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	running := s.answers()
	if running {
		s.pid = s.readPID()
	}
	if running && !made { // left over from a manufacture that was interrupted
		if err := s.Stop(); err != nil {
			return err
		}
		running = false
	}
	if !made {
		if err := os.RemoveAll(s.state()); err != nil {
			return err
		}
		log = o.boot.Log()
	}
	if !running {
		if err := s.start(ctx, o); err != nil {
			return err
		}
	}
	if !made {
		if err := s.once(ctx, ca, o); err != nil {
			return err
		}
	}
	if err := s.measure(log); err != nil {
		return err
	}
	if made {
		return nil
	}
	return writeFile(s.BootLog(), log)
}

// once is the factory: bank, endorsement key, certificates.
func (s *SoftTPM) once(ctx context.Context, ca *CA, o options) error {
	if err := s.use(onlySHA256); err != nil {
		return fmt.Errorf("allocate PCR bank: %w", err)
	}
	if err := s.Stop(); err != nil { // banks change at the next power-up
		return err
	}
	if err := s.start(ctx, o); err != nil {
		return err
	}
	return s.use(func(d *tpm.Device) error { return endorse(d, ca) })
}

// measure extends the boot log, if nothing was extended since power-up.
func (s *SoftTPM) measure(log []byte) error {
	events, err := eventlog.Measurements(log)
	if err != nil {
		return err
	}
	return s.use(func(d *tpm.Device) error {
		pcrs, err := d.PCRs()
		if err != nil {
			return err
		}
		for _, value := range pcrs {
			if value != [32]byte{} {
				return nil
			}
		}
		for _, e := range events {
			if err := d.Extend(e.PCR, e.Digest); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *SoftTPM) use(fn func(*tpm.Device) error) error {
	d, err := tpm.Open(s.Path())
	if err != nil {
		return err
	}
	return errors.Join(fn(d), d.Close())
}

const (
	startPatience = 10 * time.Second
	stopPatience  = 5 * time.Second
)

// start powers the TPM up and waits until it answers.
func (s *SoftTPM) start(ctx context.Context, o options) error {
	var err error
	swtpm := o.swtpm
	if swtpm == nil {
		found, err := FindSwtpm()
		if err != nil {
			return err
		}
		swtpm = &found
	}
	if err = os.MkdirAll(s.state(), 0o700); err != nil {
		return err
	}
	if s.socket, err = socketPath(s.dir); err != nil { // Stop removed a short one
		return err
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.Create(filepath.Join(s.dir, "swtpm.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := swtpm.command(s.state(), s.socket)
	cmd.Stdout, cmd.Stderr = out, out
	// Its own session either way: ^C in a terminal goes to our group, and the node
	// still needs its TPM while it shuts down.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !o.detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	exited, err := startChild(cmd)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSwtpm, err)
	}
	s.pid, s.exited = cmd.Process.Pid, exited
	if err := writeFile(s.pidFile(), []byte(strconv.Itoa(s.pid)+"\n")); err != nil {
		return err
	}
	deadline := time.NewTimer(startPatience)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !s.answers() {
		select {
		case <-poll.C:
		case <-exited:
			said, _ := os.ReadFile(out.Name()) // only to explain
			return fmt.Errorf("%w: ended at once: %s", ErrSwtpm, bytes.TrimSpace(said))
		case <-deadline.C:
			return fmt.Errorf("%w: no answer within %v", ErrSwtpm, startPatience)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// answers reports whether something listens on the socket.
func (s *SoftTPM) answers() bool {
	conn, err := net.DialTimeout("unix", s.socket, startPatience)
	if errors.Is(err, unix.EAGAIN) { // its queue is full: it is there and busy
		return true
	}
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Stop powers the TPM off, whoever started it, and returns when it is gone. What it
// keeps in NV is on disk already.
func (s *SoftTPM) Stop() error {
	if s.pid == 0 {
		if s.answers() {
			return fmt.Errorf("%w: one runs in %s and its process is not known", ErrSwtpm, s.dir)
		}
		return nil
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if s.ended() { // its number may be another's by now
			break
		}
		if err := syscall.Kill(s.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%w: stop process %d: %w", ErrSwtpm, s.pid, err)
		}
		if s.gone(stopPatience) {
			break
		}
	}
	s.pid, s.exited = 0, nil
	if short := filepath.Dir(s.socket); short != s.dir { // nothing is left outside the directory
		if err := errors.Join(remove(s.socket), remove(short)); err != nil {
			return err
		}
	}
	return remove(s.pidFile())
}

// ended reports whether the process is gone.
func (s *SoftTPM) ended() bool {
	if s.exited == nil {
		return !s.isOurs(s.pid)
	}
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// remove removes what may be gone already.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// gone waits for the process to end.
func (s *SoftTPM) gone(patience time.Duration) bool {
	if s.exited != nil {
		select {
		case <-s.exited:
			return true
		case <-time.After(patience):
			return false
		}
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if !s.isOurs(s.pid) {
			return true
		}
	}
	return false
}

// readPID returns the process named by the pid file, if it still is our swtpm.
func (s *SoftTPM) readPID() int {
	b, err := os.ReadFile(s.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 || !s.isOurs(pid) {
		return 0
	}
	return pid
}

// isOurs reports whether a process is the swtpm of this directory: numbers are used
// again, and a signal must not hit a stranger.
func (s *SoftTPM) isOurs(pid int) bool {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && bytes.Contains(line, []byte("\x00dir="+s.state()+"\x00"))
}

func (s *SoftTPM) state() string   { return filepath.Join(s.dir, "state") }
func (s *SoftTPM) pidFile() string { return filepath.Join(s.dir, "swtpm.pid") }

// socketPath chooses a path a unix socket can have: less than 108 bytes.
func socketPath(dir string) (string, error) {
	const longest = 100
	if path := filepath.Join(dir, "tpm.sock"); len(path) <= longest {
		return path, nil
	}
	sum := sha256.Sum256([]byte(dir))
	short := filepath.Join(os.TempDir(), fmt.Sprintf("bailiwick-tpm-%d-%x", os.Getuid(), sum[:6]))
	if err := os.Mkdir(short, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(short)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || info.Mode().Perm()&0o077 != 0 || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s belongs to somebody else: remove it, or use a shorter directory than %s", short, dir)
	}
	return filepath.Join(short, "tpm.sock"), nil
}

// writeFile writes a file so that a crash leaves the old one or the new one.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
