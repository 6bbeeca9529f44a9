package caller

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone means the process has ended, or closed its socket. Nothing can be
	// done for this connection; a new one is attributed afresh.
	ErrGone = errors.New("the local process has ended")
	// ErrChanged means the process runs another program, as another user, or
	// shares its socket with another program, since it was attributed. The
	// caller must end what it granted; the process may connect again.
	ErrChanged = errors.New("the local process is not the one that was attributed")
	// ErrUnattributed means no single program of this machine could be shown to
	// own the socket: nobody holds it, several different programs do, it lives
	// in another namespace, or this process may not look (run the sidecar as
	// root or with CAP_SYS_PTRACE to serve other users). The text says which.
	ErrUnattributed = errors.New("socket cannot be attributed to a local process")
	// ErrNoSocket comes with ErrUnattributed where there is no such socket at
	// all: nobody listens, or the client is not on this machine.
	ErrNoSocket = errors.New("no such socket")
)

// Process is a local process, as found when it was attributed. The zero value
// is no process: its Recheck fails. Methods may be called concurrently; fields
// are read-only.
type Process struct {
	PID int
	UID uint32 // effective user
	GID uint32 // effective group
	Exe string // path of the program; empty if that path does not name the running file here
	// Selectors are in the order of the package comment, without unix:sha256: see
	// Shows.
	Selectors []string

	seen   sighting
	heldBy int     // descriptor with which it holds the socket
	sock   *socket // nil if from a Unix socket

	mu    sync.Mutex // guards what follows against Close during Recheck
	pidfd int        // -1 after Close; 0 only in the zero value
	sum   string     // selector unix:sha256; empty if nobody needed it yet, or there is none
}

// FromUnix attributes the peer of a connected Unix stream socket. The caller
// must Close the Process. It fails with ErrGone if the process that connected
// has ended, even if a child still holds its socket.
func FromUnix(c *net.UnixConn) (*Process, error) {
	return fromUnix(c, peerPidfd)
}

// fromUnix takes the way to get a pidfd of the peer, so that tests can run the
// one of older kernels.
func fromUnix(c *net.UnixConn, pidfdOf func(fd int) (int, error)) (*Process, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("unix peer: %w", err)
	}
	var cred *unix.Ucred
	pidfd := -1
	var opErr error
	err = raw.Control(func(fd uintptr) {
		cred, opErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if opErr != nil || cred.Pid <= 0 {
			return
		}
		pidfd, opErr = pidfdOf(int(fd))
		if errors.Is(opErr, unix.ENOPROTOOPT) {
			pidfd, opErr = openPidfd(int(cred.Pid))
		}
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("unix peer: %w", err)
	case gone(opErr):
		return nil, fmt.Errorf("unix peer: %w", ErrGone)
	case opErr != nil:
		return nil, fmt.Errorf("unix peer: %w: %w", ErrUnattributed, opErr)
	case cred.Pid <= 0:
		return nil, fmt.Errorf("unix peer: %w: it is in another PID namespace", ErrUnattributed)
	}
	p, err := attribute(int(cred.Pid), pidfd)
	if err != nil {
		return nil, fmt.Errorf("unix peer pid %d: %w", cred.Pid, err)
	}
	if p.UID != cred.Uid || p.GID != cred.Gid {
		p.Close()
		return nil, fmt.Errorf("unix peer pid %d: %w: connected as uid %d gid %d, is now uid %d gid %d; it must connect again",
			cred.Pid, ErrChanged, cred.Uid, cred.Gid, p.UID, p.GID)
	}
	return p, nil
}

// Shows reports whether all of some selectors are the process's; no selectors are
// nobody's. The program is read, to hash it, only when that alone decides, and must
// then still be the one that was attributed.
func (p *Process) Shows(selectors []string) bool {
	if len(selectors) == 0 {
		return false
	}
	var sums []string
	for _, s := range selectors {
		switch {
		case strings.HasPrefix(s, sumSelector):
			sums = append(sums, s)
		case !slices.Contains(p.Selectors, s):
			return false
		}
	}
	for _, s := range sums {
		if s != p.sumOf() {
			return false
		}
	}
	return true
}

// sumOf is the selector unix:sha256, or empty where the program may not be read, is
// larger than MaxExe, or is another by now.
func (p *Process) sumOf() string {
	p.mu.Lock()
	known, pidfd := p.sum, p.pidfd
	if known != "" || pidfd <= 0 || p.seen.exe == (exeID{}) {
		p.mu.Unlock()
		return known
	}
	dir, err := openProc(p.PID, pidfd)
	p.mu.Unlock()
	if err != nil {
		return ""
	}
	defer unix.Close(dir)
	sum, err := programs.hash(dir, p.seen.exe) // may take a while
	if err != nil || sum == "" {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd <= 0 {
		return ""
	}
	if again, err := look(dir, p.pidfd); err != nil || again != p.seen {
		return ""
	}
	p.sum = sumSelector + sum
	return p.sum
}

// Recheck looks at the process again: alive, same user and group, same program
// file, and for a TCP socket still among its holders, with nobody else but its
// like (as of HintFor ago at most). Call it before every further use of what was granted. It returns
// ErrGone, ErrChanged or ErrUnattributed.
func (p *Process) Recheck() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd <= 0 {
		return fmt.Errorf("pid %d: %w: closed here", p.PID, ErrGone)
	}
	now, err := sight(p.PID, p.pidfd)
	if err == nil && now != p.seen {
		err = ErrChanged
	}
	if p.sock != nil {
		err = p.sock.recheck(p, err)
	}
	if err != nil {
		return fmt.Errorf("pid %d: %w", p.PID, err)
	}
	return nil
}

// Close lets go of the process. The process itself is not touched.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd <= 0 {
		return nil
	}
	fd := p.pidfd
	p.pidfd = -1
	return unix.Close(fd)
}

// like reports whether q runs the same program as the same user and group.
func (p *Process) like(q *Process) bool {
	return p.UID == q.UID && p.GID == q.GID && p.seen.exe == q.seen.exe && p.seen.exe != (exeID{})
}
