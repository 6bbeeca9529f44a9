package caller

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxExe is the largest program that is hashed, in bytes. A larger one has no
// unix:sha256 selector.
const MaxExe = 512 << 20

const sumSelector = "unix:sha256:"

// largeExe parts small programs from large: each kind is hashed one at a time,
// so that large files do not hold up the attribution of everybody else.
const largeExe = 64 << 20

// hashes remembers the SHA-256 of programs by exeID.
type hashes struct {
	small, large sync.Mutex // held while hashing a file of that kind
	mu           sync.Mutex // guards known; held for a look-up
	known        map[exeID]string
}

var programs hashes

// hash is the SHA-256 of the running program exe, read through the process's
// directory, or "" if the file may not be read or is too large.
func (h *hashes) hash(dir int, exe exeID) (string, error) {
	if sum, ok := h.get(exe); ok {
		return sum, nil
	}
	if exe.size > MaxExe {
		return "", nil
	}
	turn := &h.small
	if exe.size > largeExe {
		turn = &h.large
	}
	turn.Lock()
	defer turn.Unlock()
	if sum, ok := h.get(exe); ok {
		return sum, nil
	}
	fd, err := unix.Openat(dir, "exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.EACCES, unix.EPERM:
		return "", nil
	case unix.ESRCH, unix.ENOENT:
		return "", ErrGone
	default:
		return "", fmt.Errorf("%w: open program: %w", ErrUnattributed, err)
	}
	f := os.NewFile(uintptr(fd), "exe")
	defer f.Close()
	if !same(fd, exe) {
		return "", fmt.Errorf("%w: its program was replaced meanwhile", ErrChanged)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, MaxExe)); err != nil {
		return "", fmt.Errorf("%w: read program: %w", ErrUnattributed, err)
	}
	if !same(fd, exe) {
		return "", fmt.Errorf("%w: its program was written to meanwhile", ErrChanged)
	}
	s := hex.EncodeToString(sum.Sum(nil))
	h.put(exe, s)
	return s, nil
}

func same(fd int, exe exeID) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && idOf(&st) == exe
}

func (h *hashes) get(exe exeID) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.known[exe]
	return s, ok
}

// put remembers a hash, unless the file changed so lately that a further change
// could carry the same time stamp.
func (h *hashes) put(exe exeID, sum string) {
	if time.Since(time.Unix(0, exe.ctime)) < 2*time.Second {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil || len(h.known) >= 4096 {
		h.known = make(map[exeID]string)
	}
	h.known[exe] = sum
}
