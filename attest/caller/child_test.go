package caller

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary runs itself as the processes to attribute. A child does what
// CALLER_CHILD says, writes one line, and then obeys lines on its standard
// input until that ends.
func TestMain(m *testing.M) {
	if role := os.Getenv("CALLER_CHILD"); role != "" {
		child(strings.Fields(role))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(role []string) {
	var file *os.File
	switch role[0] {
	case "hold": // a descriptor it inherited
	case "listen":
		l := must(net.Listen(role[1], role[2]))
		file = must(l.(*net.TCPListener).File())
		l.Close()
		sa := must(unix.Getsockname(int(file.Fd())))
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			fmt.Println(sa.Port)
		case *unix.SockaddrInet6:
			fmt.Println(sa.Port)
		}
	default:
		c := must(net.Dial(role[0], role[1]))
		file = must(c.(interface{ File() (*os.File, error) }).File())
		c.Close()
	}
	if role[0] != "listen" {
		fmt.Println("ready")
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "exec": // become another program, which keeps the socket
			must(unix.FcntlInt(file.Fd(), unix.F_SETFD, 0))
			must(0, unix.Exec("/bin/cat", []string{"cat"}, nil))
		case "share-self":
			spawn(file, "/proc/self/exe")
		case "share-cat":
			spawn(file, "/bin/cat")
		case "close":
			file.Close()
			fmt.Println("closed")
		case "leave-cat": // cat would read what we are told next, so end here
			spawn(file, "/bin/cat")
			return
		}
	}
}

// spawn starts a program that inherits the socket and our standard streams.
func spawn(file *os.File, program string) {
	cmd := exec.Command(program)
	cmd.Env = []string{"CALLER_CHILD=hold"}
	cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = os.Stdin, os.Stdout, []*os.File{file}
	must(0, cmd.Start())
	if program == "/bin/cat" {
		fmt.Println("ready")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type proc struct {
	*exec.Cmd
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs a child in a role; its first line has been written and is returned.
func start(t *testing.T, program string, attr *syscall.SysProcAttr, role ...string) (*proc, string) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "CALLER_CHILD="+strings.Join(role, " "))
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, attr
	p := &proc{Cmd: cmd, t: t, in: must(cmd.StdinPipe()), out: bufio.NewReader(must(cmd.StdoutPipe()))}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.in.Close(); io.Copy(io.Discard, p.out); cmd.Wait() })
	return p, p.read()
}

func (p *proc) read() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("child: %v", err)
	}
	return strings.TrimSpace(line)
}

func (p *proc) say(words ...string) {
	p.t.Helper()
	for _, w := range words {
		if _, err := fmt.Fprintln(p.in, w); err != nil {
			p.t.Fatal(err)
		}
	}
}

// become makes the child execute cat and waits until it has.
func (p *proc) become() {
	p.t.Helper()
	p.say("exec")
	link := fmt.Sprintf("/proc/%d/exe", p.Process.Pid)
	want := must(filepath.EvalSymlinks("/bin/cat"))
	for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if got, err := os.Readlink(link); err == nil && got == want {
			return
		}
		if time.Now().After(end) {
			p.t.Fatal("the child did not become cat")
		}
	}
}

func self(t *testing.T) string {
	t.Helper()
	return must(os.Executable())
}
