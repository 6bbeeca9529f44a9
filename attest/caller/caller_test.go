package caller

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func sumOf(t *testing.T, path string) string {
	t.Helper()
	sum := sha256.Sum256(must(os.ReadFile(path)))
	return hex.EncodeToString(sum[:])
}

func check(t *testing.T, p *Process, pid int, uid uint32, exe string) {
	t.Helper()
	sum := sumOf(t, exe)
	if p.PID != pid || p.UID != uid || p.Exe != exe {
		t.Errorf("got pid %d uid %d exe %q, want %d %d %q", p.PID, p.UID, p.Exe, pid, uid, exe)
	}
	all := []string{"unix:sha256:" + sum, fmt.Sprint("unix:uid:", uid), fmt.Sprint("unix:gid:", p.GID), "unix:path:" + exe}
	if p.Shows(append(all, "unix:uid:4711")) || p.Shows([]string{"unix:sha256:" + sum[1:]}) || p.Shows(nil) {
		t.Error("it shows what it has not")
	}
	for _, s := range all {
		if !p.Shows([]string{s}) {
			t.Errorf("it does not show %s, selectors %q", s, p.Selectors)
		}
	}
	if !p.Shows(all) {
		t.Errorf("it does not show all of %q", all)
	}
	if err := p.Recheck(); err != nil {
		t.Errorf("Recheck: %v", err)
	}
}

// unixPeer starts a child that connects to us.
func unixPeer(t *testing.T) (*proc, *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l := must(net.Listen("unix", path))
	t.Cleanup(func() { l.Close() })
	p, _ := start(t, self(t), nil, "unix", path)
	c := must(l.Accept())
	t.Cleanup(func() { c.Close() })
	return p, c.(*net.UnixConn)
}

func TestFromUnix(t *testing.T) {
	child, c := unixPeer(t)
	for name, pidfd := range map[string]func(int) (int, error){
		"SO_PEERPIDFD": peerPidfd,
		"older kernel": func(int) (int, error) { return -1, unix.ENOPROTOOPT },
	} {
		t.Run(name, func(t *testing.T) {
			p, err := fromUnix(c, pidfd)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			check(t, p, child.Process.Pid, uint32(os.Getuid()), self(t))
		})
	}
	p := must(FromUnix(c))
	defer p.Close()
	unread := must(FromUnix(c))
	defer unread.Close()
	child.become()
	if err := p.Recheck(); !errors.Is(err, ErrChanged) {
		t.Errorf("after exec: %v, want ErrChanged", err)
	}
	q := must(FromUnix(c))
	if q.Exe == p.Exe {
		t.Errorf("after exec: still %s", q.Exe)
	}
	before, after := "unix:sha256:"+sumOf(t, self(t)), "unix:sha256:"+sumOf(t, q.Exe)
	if unread.Shows([]string{before}) || unread.Shows([]string{after}) {
		t.Error("a program that was not read in time shows a sum")
	}
	if !q.Shows([]string{after}) || q.Shows([]string{before}) {
		t.Error("after exec: not the sum of the new program")
	}
	child.in.Close()
	child.Wait()
	for _, p := range []*Process{p, q} {
		if err := p.Recheck(); !errors.Is(err, ErrGone) {
			t.Errorf("after exit: %v, want ErrGone", err)
		}
	}
	q.Close()
	q.Close()
	if err := q.Recheck(); !errors.Is(err, ErrGone) {
		t.Errorf("after Close: %v, want ErrGone", err)
	}
	if err := new(Process).Recheck(); !errors.Is(err, ErrGone) {
		t.Errorf("zero value: %v, want ErrGone", err)
	}
}

func TestFromUnixPeerDeadChildHoldsSocket(t *testing.T) {
	child, c := unixPeer(t)
	before := must(FromUnix(c))
	defer before.Close()
	child.say("leave-cat")
	child.read()
	// Wait for this process only: cat holds the pipes that Cmd.Wait would drain.
	if _, err := child.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := before.Recheck(); !errors.Is(err, ErrGone) {
		t.Errorf("Recheck: %v, want ErrGone", err)
	}
	if p, err := FromUnix(c); !errors.Is(err, ErrGone) {
		t.Errorf("FromUnix: %v, %v; want ErrGone", p, err)
	}
}

// tcpPeer starts a child that connects to a listener of ours.
func tcpPeer(t *testing.T, network, addr, dial string, attr *syscall.SysProcAttr, program string) (child *proc, client, server netip.AddrPort, c net.Conn) {
	t.Helper()
	l := must(net.Listen(network, addr))
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	child, _ = start(t, program, attr, "tcp", net.JoinHostPort(dial, port))
	c = must(l.Accept())
	t.Cleanup(func() { c.Close() })
	return child, c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort(), c
}

func TestFromTCP(t *testing.T) {
	for _, tc := range []struct{ name, network, addr, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"IPv4 client of an IPv6 socket", "tcp", "[::]:0", "127.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			child, client, server, c := tcpPeer(t, tc.network, tc.addr, tc.dial, nil, self(t))
			for range 2 { // by a complete scan, and by a hint
				p, err := FromTCP(client, server)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				check(t, p, child.Process.Pid, uint32(os.Getuid()), self(t))
			}
			mapped := netip.AddrPortFrom(netip.AddrFrom16(client.Addr().As16()), client.Port())
			p := must(FromTCP(mapped, server))
			defer p.Close()
			// Our own end of the connection is a different socket.
			own := must(FromTCP(server, client))
			defer own.Close()
			if own.PID != os.Getpid() {
				t.Errorf("own end: pid %d, want %d", own.PID, os.Getpid())
			}
			child.become()
			if err := p.Recheck(); !errors.Is(err, ErrChanged) {
				t.Errorf("after exec: %v, want ErrChanged", err)
			}
			child.in.Close()
			child.Wait()
			if err := p.Recheck(); !errors.Is(err, ErrGone) {
				t.Errorf("after exit: %v, want ErrGone", err)
			}
			c.Close()
			if _, err := FromTCP(client, server); !errors.Is(err, ErrUnattributed) {
				t.Errorf("after the end: %v, want ErrUnattributed", err)
			}
		})
	}
}

func TestFromTCPSharedSocket(t *testing.T) {
	t.Run("same program", func(t *testing.T) {
		child, client, server, _ := tcpPeer(t, "tcp4", "127.0.0.1:0", "127.0.0.1", nil, self(t))
		child.say("share-self")
		child.read()
		p, err := FromTCP(client, server)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		check(t, p, child.Process.Pid, uint32(os.Getuid()), self(t))
	})
	t.Run("another program", func(t *testing.T) {
		child, client, server, _ := tcpPeer(t, "tcp4", "127.0.0.1:0", "127.0.0.1", nil, self(t))
		child.say("share-cat")
		child.read()
		if p, err := FromTCP(client, server); !errors.Is(err, ErrUnattributed) {
			t.Errorf("got %v, %v; want ErrUnattributed", p, err)
		}
	})
	t.Run("dead, another program holds it", func(t *testing.T) {
		child, client, server, _ := tcpPeer(t, "tcp4", "127.0.0.1:0", "127.0.0.1", nil, self(t))
		p := must(FromTCP(client, server))
		defer p.Close()
		child.say("leave-cat")
		child.read()
		if _, err := child.Process.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := p.Recheck(); !errors.Is(err, ErrChanged) {
			t.Errorf("Recheck: %v, want ErrChanged", err)
		}
	})
}

func TestFromTCPNoSuchSocket(t *testing.T) {
	l := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer l.Close()
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	for name, pair := range map[string][2]netip.AddrPort{
		"a listener is no connection": {addr, netip.MustParseAddrPort("127.0.0.1:1")},
		"no address":                  {{}, addr},
		"another machine":             {netip.MustParseAddrPort("192.0.2.1:4444"), addr},
	} {
		if p, err := FromTCP(pair[0], pair[1]); !errors.Is(err, ErrUnattributed) {
			t.Errorf("%s: %v, %v; want ErrUnattributed", name, p, err)
		}
	}
}

func TestFromListener(t *testing.T) {
	for _, tc := range []struct{ name, network, addr, ask string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv4 wildcard", "tcp4", "0.0.0.0:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"both, asked for IPv4", "tcp", ":0", "127.0.0.1"},
		{"both, asked for mapped IPv4", "tcp", ":0", "::ffff:127.0.0.1"},
		{"both, asked for IPv6", "tcp", ":0", "::1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			child, port := start(t, self(t), nil, "listen", tc.network, tc.addr)
			addr := netip.MustParseAddrPort(net.JoinHostPort(tc.ask, port))
			p, err := FromListener(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			check(t, p, child.Process.Pid, uint32(os.Getuid()), self(t))
			child.say("close")
			child.read()
			if err := p.Recheck(); !errors.Is(err, ErrGone) {
				t.Errorf("closed: %v, want ErrGone", err)
			}
			l := must(net.Listen("tcp", addr.String()))
			defer l.Close()
			if err := p.Recheck(); !errors.Is(err, ErrChanged) {
				t.Errorf("another listener: %v, want ErrChanged", err)
			}
		})
	}
	if _, err := FromListener(netip.MustParseAddrPort("127.0.0.1:1")); !errors.Is(err, ErrUnattributed) || !errors.Is(err, ErrNoSocket) {
		t.Errorf("nobody listens: %v, want ErrUnattributed and ErrNoSocket", err)
	}
}

// TestOtherUser runs the child as another user; only root may start it, and
// only root may look at it.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		p := &Process{UID: 1}
		if got := count([]*Process{{UID: 0}, p}); len(got) != 1 || got[0] != p {
			t.Errorf("count = %v", got)
		}
		return
	}
	dir := must(os.MkdirTemp("", "caller"))
	defer os.RemoveAll(dir)
	must(0, os.Chmod(dir, 0o755))
	program := filepath.Join(dir, "program")
	must(0, os.WriteFile(program, must(os.ReadFile(self(t))), 0o755))
	const nobody = 65534
	child, client, server, _ := tcpPeer(t, "tcp4", "127.0.0.1:0", "127.0.0.1",
		&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, program)
	p, err := FromTCP(client, server)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	check(t, p, child.Process.Pid, nobody, program)
	if !slices.Contains(p.Selectors, "unix:user:nobody") {
		t.Errorf("selectors %q lack the user's name", p.Selectors)
	}
}

// A file that its owner rewrites, setting size and time back, must not be taken
// for the one that was hashed.
func TestHashCacheSeesRewrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exe") // stands in for /proc/<pid>/exe
	must(0, os.WriteFile(path, []byte("good"), 0o600))
	dir := must(unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0))
	defer unix.Close(dir)
	id := func() exeID {
		var st unix.Stat_t
		must(0, unix.Stat(path, &st))
		return idOf(&st)
	}
	var h hashes
	first := id()
	good := must(h.hash(dir, first))
	if len(h.known) != 0 {
		t.Error("a file changed just now was cached")
	}
	h.known = map[exeID]string{first: good}
	must(0, os.WriteFile(path, []byte("evil"), 0o600))
	at := []unix.Timespec{unix.NsecToTimespec(first.mtime), unix.NsecToTimespec(first.mtime)}
	must(0, unix.UtimesNanoAt(unix.AT_FDCWD, path, at, 0))
	second := id()
	if second.mtime != first.mtime || second.size != first.size || second == first {
		t.Fatalf("%+v and %+v", first, second)
	}
	if evil := must(h.hash(dir, second)); evil == good {
		t.Error("rewritten file has the old hash")
	}
	if _, err := h.hash(dir, exeID{ino: 1}); !errors.Is(err, ErrChanged) {
		t.Errorf("replaced file: %v, want ErrChanged", err)
	}
	if sum, err := h.hash(dir, exeID{size: MaxExe + 1}); sum != "" || err != nil {
		t.Errorf("large file: %q, %v", sum, err)
	}
}

func BenchmarkFromTCP(b *testing.B) {
	l := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer l.Close()
	d := must(net.Dial("tcp4", l.Addr().String()))
	defer d.Close()
	client, server := d.LocalAddr().(*net.TCPAddr).AddrPort(), d.RemoteAddr().(*net.TCPAddr).AddrPort()
	for name, hint := range map[string]bool{"hint": true, "scan": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if !hint {
					hints = hinted{}
				}
				must(FromTCP(client, server)).Close()
			}
		})
	}
}
