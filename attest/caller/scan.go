package caller

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// scanLimit bounds one scan. A machine on which it does not suffice refuses
// connections rather than attribute them by half a scan.
const scanLimit = 3 * time.Second

// holder is a descriptor of a process, as a scan met it.
type holder struct{ pid, fd int }

// attribute pins the holder's process and proves that it still holds the inode.
func (h holder) attribute(inode uint32) (*Process, error) {
	pidfd, err := openPidfd(h.pid)
	if err != nil {
		if gone(err) {
			return nil, ErrGone
		}
		return nil, fmt.Errorf("%w: pidfd: %w", ErrUnattributed, err)
	}
	p, err := attribute(h.pid, pidfd)
	if err != nil {
		return nil, err
	}
	if err := h.holds(p, inode); err != nil {
		p.Close()
		return nil, err
	}
	p.heldBy = h.fd
	return p, nil
}

func (h holder) holds(p *Process, inode uint32) error {
	dir, err := openProc(p.PID, p.pidfd)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var buf [64]byte
	n, err := unix.Readlinkat(dir, "fd/"+strconv.Itoa(h.fd), buf[:])
	if got, ok := socketInode(buf[:max(n, 0)]); err != nil || !ok || got != inode {
		return fmt.Errorf("%w: it closed the socket meanwhile", ErrGone)
	}
	if !alive(p.pidfd) {
		return ErrGone
	}
	return nil
}

// batch is the scan that several requests wait for.
type batch struct {
	want  map[uint32]bool
	done  chan struct{} // closed when found and err are set
	found map[uint32][]holder
	err   error
}

// scanner lets requests that arrive during a scan share the next one.
type scanner struct {
	running sync.Mutex // held during a scan
	mu      sync.Mutex // guards next; held briefly
	next    *batch     // not begun yet
}

var scans scanner

// holders finds who holds the inode by a complete scan begun after the call.
func (s *scanner) holders(inode uint32) ([]holder, error) {
	s.mu.Lock()
	b := s.next
	first := b == nil
	if first {
		b = &batch{want: map[uint32]bool{}, done: make(chan struct{})}
		s.next = b
	}
	b.want[inode] = true
	s.mu.Unlock()
	if first {
		s.running.Lock()
		s.mu.Lock()
		s.next = nil // closes the batch: want is ours alone now
		s.mu.Unlock()
		b.found, b.err = scanAll(b.want)
		s.running.Unlock()
		close(b.done)
	}
	<-b.done
	return b.found[inode], b.err
}

func scanAll(want map[uint32]bool) (map[uint32][]holder, error) {
	found := make(map[uint32][]holder)
	end := time.Now().Add(scanLimit)
	proc, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnattributed, err)
	}
	defer unix.Close(proc)
	err = numbers(proc, func(pid int) error {
		if time.Now().After(end) {
			return fmt.Errorf("%w: reading /proc/*/fd took longer than %s", ErrUnattributed, scanLimit)
		}
		// Processes that end meanwhile, or may not be looked at, are passed over.
		_ = scanOne(pid, want, found)
		return nil
	})
	return found, err
}

// scanOne adds the first descriptor of pid for every wanted inode to found.
func scanOne(pid int, want map[uint32]bool, found map[uint32][]holder) error {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var buf [64]byte
	return numbers(dir, func(fd int) error {
		n, err := unix.Readlinkat(dir, strconv.Itoa(fd), buf[:])
		if err != nil {
			return nil // closed meanwhile
		}
		inode, ok := socketInode(buf[:n])
		if !ok || !want[inode] {
			return nil
		}
		if all := found[inode]; len(all) == 0 || all[len(all)-1].pid != pid {
			found[inode] = append(all, holder{pid, fd})
		}
		if len(want) == 1 {
			return errFound
		}
		return nil
	})
}

// errFound ends the reading of a directory early.
var errFound = errors.New("found")

// numbers calls fn with each entry of a directory whose name is a number.
func numbers(dir int, fn func(n int) error) error {
	var buf [8 << 10]byte
	for {
		n, err := unix.Getdents(dir, buf[:])
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		// struct linux_dirent64: inode, offset, record length, type, name
		for b := buf[:n]; len(b) > 19; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size < 20 || size > len(b) {
				break
			}
			name := b[19:size]
			b = b[size:]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if i, ok := number(name); ok {
				if err := fn(int(i)); err != nil {
					return err
				}
			}
		}
	}
}

func socketInode(link []byte) (uint32, bool) {
	rest, ok := bytes.CutPrefix(link, []byte("socket:["))
	if !ok || len(rest) < 2 || rest[len(rest)-1] != ']' {
		return 0, false
	}
	return number(rest[:len(rest)-1])
}

// number parses a decimal number below 2^32 without allocating.
func number(b []byte) (uint32, bool) {
	if len(b) == 0 || len(b) > 10 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return uint32(n), n < 1<<32
}
