// Package local is the listeners for programs of this machine that know who is at
// the other end: a unix socket or a loopback port whose every connection has a Caller.
//
// What the kernel says of a unix socket's peer is taken when it connects. The peer of
// a loopback port, and what program a peer runs, is looked up when somebody first asks.
// Who cannot be attributed has no user and shows no selector: nothing is ever given
// away because a look-up failed.
//
// A unix socket is mode 0600, or 0660 for a group; one left by a process that ended is
// replaced, one that still answers is not.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
)

var (
	// ErrSocketBusy means another process answers on the socket.
	ErrSocketBusy = errors.New("the socket is in use: is the node running already?")
	// ErrGroup means that a socket is to be for a group that is none of this machine.
	ErrGroup = errors.New("there is no such group on this machine")
)

// Unix binds the socket at path, making its folder. Group is a name or number, whose
// members may connect too; empty: nobody but the owner and root. The folders above a
// socket for a group are for the operator to open to it. Errors wrap ErrSocketBusy,
// ErrGroup or the file system's.
func Unix(path, group string) (net.Listener, error) {
	mode, gid, err := access(group)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := clearStale(path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	lis, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := errors.Join(os.Lchown(path, -1, gid), os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), lis.Close())
	}
	return listener{lis}, nil
}

// TCP binds a loopback address.
func TCP(addr netip.AddrPort) (net.Listener, error) {
	if !addr.Addr().IsLoopback() {
		return nil, fmt.Errorf("%s: want a loopback address", addr)
	}
	lis, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return listener{lis}, nil
}

// access is the mode and group of a socket; group -1 leaves it as it is.
func access(group string) (os.FileMode, int, error) {
	if group == "" {
		return 0o600, -1, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return 0o660, int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %q", ErrGroup, group)
	}
	gid, err := strconv.Atoi(g.Gid)
	return 0o660, gid, err
}

// clearStale removes a socket nobody answers on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("the path exists and is no socket: move it away")
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return errors.Join(ErrSocketBusy, c.Close())
	}
	return os.Remove(path)
}

// Caller is the program at the other end of one connection. The zero value is nobody.
type Caller struct {
	find func() (*caller.Process, error) // nil: nobody
	uid  int64
	gid  int64

	once sync.Once
	mu   sync.Mutex // guards what follows
	p    *caller.Process
	gone bool
}

// User is the user and group of the process that connected; -1 where they are not known.
func (c *Caller) User() (uid, gid int64) {
	if c == nil || c.find == nil {
		return -1, -1
	}
	if c.uid < 0 {
		if p := c.process(); p != nil {
			return int64(p.UID), int64(p.GID)
		}
	}
	return c.uid, c.gid
}

// Shows reports whether the process shows all of some selectors, as a registration
// entry asks. One that is no longer what connected shows none.
func (c *Caller) Shows(selectors []string) bool {
	p := c.process()
	return p != nil && p.Shows(selectors) && p.Recheck() == nil
}

func (c *Caller) process() *caller.Process {
	if c == nil || c.find == nil {
		return nil
	}
	c.once.Do(func() {
		p, err := c.find()
		if err != nil {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.gone {
			_ = p.Close()
			return
		}
		c.p = p
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.p
}

func (c *Caller) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.p != nil {
		_ = c.p.Close()
	}
}

type listener struct{ net.Listener }

// conn is a connection that knows its caller; so does its remote address, which is all
// that gRPC shows of it.
type conn struct {
	net.Conn
	caller *Caller
}

// Addr is the remote address of a connection.
type Addr struct {
	net.Addr
	Caller *Caller
}

func (c conn) RemoteAddr() net.Addr { return Addr{c.Conn.RemoteAddr(), c.caller} }

func (c conn) Close() error {
	c.caller.close()
	return c.Conn.Close()
}

func (l listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &Caller{uid: -1, gid: -1}
	switch under := accepted.(type) {
	case *net.UnixConn:
		c.find = func() (*caller.Process, error) { return caller.FromUnix(under) }
		c.uid, c.gid = credentials(under)
	case *net.TCPConn:
		client, server := under.RemoteAddr().(*net.TCPAddr).AddrPort(), under.LocalAddr().(*net.TCPAddr).AddrPort()
		c.find = func() (*caller.Process, error) { return caller.FromTCP(client, server) }
	}
	return conn{accepted, c}, nil
}

// credentials are those at the time of connecting; what fails leaves the user unknown.
func credentials(c *net.UnixConn) (uid, gid int64) {
	uid, gid = -1, -1
	raw, err := c.SyscallConn()
	if err != nil {
		return uid, gid
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid, gid = int64(cred.Uid), int64(cred.Gid)
		}
	})
	return uid, gid
}

type key struct{}

// WithCaller is an http.Server's ConnContext for connections of this package's listeners.
func WithCaller(ctx context.Context, c net.Conn) context.Context {
	a, _ := c.RemoteAddr().(Addr)
	return context.WithValue(ctx, key{}, a.Caller)
}

// From returns the caller that WithCaller put there, or nil, who is nobody.
func From(ctx context.Context) *Caller {
	c, _ := ctx.Value(key{}).(*Caller)
	return c
}
