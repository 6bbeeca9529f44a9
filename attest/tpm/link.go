package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-tpm/tpm2"
)

const (
	headerSize  = 10   // of a response: tag, size, code (TPM 2.0 Part 1 §18)
	maxResponse = 4096 // no TPM sends more

	dialPatience    = 10 * time.Second // swtpm serves one connection at a time
	commandPatience = 3 * time.Minute  // making an RSA key takes a discrete TPM most of a minute
)

// openLink chooses the transport by the form of path.
func openLink(path string) (link, error) {
	if socket, ok := strings.CutPrefix(path, "unix:"); ok {
		return socketLink{network: "unix", address: socket}, nil
	}
	if address, ok := strings.CutPrefix(path, "tcp:"); ok {
		return socketLink{network: "tcp", address: address}, nil
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("want /dev/tpmrm0, unix:PATH or tcp:HOST:PORT")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, fmt.Errorf("is not a character device; a socket is written unix:%s", path)
	}
	// Not os.OpenFile: that makes the file non-blocking, and a non-blocking read
	// of a TPM that is still busy returns nothing.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return deviceLink(fd), nil
}

func responseCode(response []byte) tpm2.TPMRC {
	if len(response) < headerSize {
		return 0
	}
	return tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
}

// deviceLink is a file descriptor of the kernel's driver, which has a resource
// manager and shares the TPM among processes by itself.
type deviceLink int

func (deviceLink) hold() (func(), error) { return func() {}, nil }

func (l deviceLink) Close() error { return unix.Close(int(l)) }

func (l deviceLink) Send(command []byte) ([]byte, error) {
	if err := again(func() (err error) { _, err = unix.Write(int(l), command); return err }); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	response := make([]byte, maxResponse)
	var n int
	if err := again(func() (err error) { n, err = unix.Read(int(l), response); return err }); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if n < headerSize {
		return nil, fmt.Errorf("answer of %d bytes", n)
	}
	return response[:n], nil
}

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// socketLink is a software TPM. It dials for every command: swtpm serves one
// connection at a time, and one that stays open would shut everybody else out.
type socketLink struct{ network, address string }

func (socketLink) Close() error { return nil }

// hold locks the directory of the socket: all processes that use one software
// TPM find the same lock, nothing needs to be created, and a process that dies
// lets go of it.
func (l socketLink) hold() (func(), error) {
	if l.network != "unix" {
		return func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(l.address))
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(commandPatience)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := again(func() error { return unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return func() { dir.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir.Name(), err), dir.Close())
		}
		time.Sleep(pause)
	}
}

func (l socketLink) Send(command []byte) ([]byte, error) {
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(commandPatience)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, maxResponse)
	if _, err := io.ReadFull(conn, response[:headerSize]); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("answer claims %d bytes", size)
	}
	if _, err := io.ReadFull(conn, response[headerSize:size]); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return response[:size], nil
}

// dial connects, waiting while the TPM's queue of connections is full.
func (l socketLink) dial() (net.Conn, error) {
	deadline := time.Now().Add(dialPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		conn, err := net.DialTimeout(l.network, l.address, dialPatience)
		if err == nil || !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return conn, err
		}
		time.Sleep(pause)
	}
}
