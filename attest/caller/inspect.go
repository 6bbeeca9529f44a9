package caller

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// exeID tells one content of a file from another. Change time is part of it
// because a file's owner can set every other field back.
type exeID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
}

func idOf(st *unix.Stat_t) exeID {
	return exeID{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// sighting is what must stay the same between two looks at a process.
type sighting struct {
	uid, gid uint32
	exe      exeID // zero if it may not be known
}

// sight looks at a living process through its own /proc directory.
func sight(pid, pidfd int) (sighting, error) {
	dir, err := openProc(pid, pidfd)
	if err != nil {
		return sighting{}, err
	}
	defer unix.Close(dir)
	return look(dir, pidfd)
}

// openProc opens /proc/<pid> and then proves that the process of the pidfd
// still lives, hence that the directory is its own.
func openProc(pid, pidfd int) (int, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && err != unix.ENOENT {
		return -1, fmt.Errorf("%w: open /proc/%d: %w", ErrUnattributed, pid, err)
	}
	if err != nil || !alive(pidfd) {
		if err == nil {
			unix.Close(dir)
		}
		return -1, ErrGone
	}
	return dir, nil
}

func look(dir, pidfd int) (sighting, error) {
	var s sighting
	var err error
	var ok bool
	if _, s.uid, s.gid, ok = credentials(pidfd); !ok {
		if s.uid, s.gid, err = statusIDs(dir); err != nil {
			return s, err
		}
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, "exe", &st, 0); err {
	case nil:
		s.exe = idOf(&st)
	case unix.EACCES, unix.EPERM: // another user's process, and we are not root
	default:
		return s, fmt.Errorf("%w: program: %w", ErrUnattributed, err)
	}
	if !alive(pidfd) {
		return s, ErrGone
	}
	return s, nil
}

// attribute makes a Process of the living process behind pidfd, which it owns
// from here on.
func attribute(pid, pidfd int) (p *Process, err error) {
	p = &Process{PID: pid, pidfd: pidfd}
	defer func() {
		if err != nil {
			p.Close()
			p = nil
		}
	}()
	if tgid, _, _, ok := credentials(pidfd); ok && tgid != pid {
		return p, fmt.Errorf("%w: pidfd is of pid %d", ErrUnattributed, tgid)
	}
	dir, err := openProc(pid, pidfd)
	if err != nil {
		return p, err
	}
	defer unix.Close(dir)
	if p.seen, err = look(dir, pidfd); err != nil {
		return p, err
	}
	p.UID, p.GID = p.seen.uid, p.seen.gid
	if p.seen.exe != (exeID{}) {
		p.Exe = pathOf(dir, p.seen.exe)
	}
	again, err := look(dir, pidfd)
	if err != nil {
		return p, err
	}
	if again != p.seen {
		return p, fmt.Errorf("%w: it changed program or user meanwhile", ErrChanged)
	}
	p.Selectors = selectors(p)
	return p, nil
}

// pathOf is the path of the running program, if that path names it here too.
func pathOf(dir int, exe exeID) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, "exe", buf)
	if err != nil || n <= 0 || n == len(buf) || buf[0] != '/' {
		return ""
	}
	path := string(buf[:n])
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || idOf(&st) != exe {
		return ""
	}
	return path
}

func selectors(p *Process) []string {
	uid, gid := strconv.FormatUint(uint64(p.UID), 10), strconv.FormatUint(uint64(p.GID), 10)
	out := []string{"unix:uid:" + uid, "unix:gid:" + gid}
	if name := users.name(uid); name != "" {
		out = append(out, "unix:user:"+name)
	}
	if name := groups.name(gid); name != "" {
		out = append(out, "unix:group:"+name)
	}
	if p.Exe != "" {
		out = append(out, "unix:path:"+p.Exe)
	}
	return out
}

// statusIDs are the effective user and group in /proc/<pid>/status.
func statusIDs(dir int) (uid, gid uint32, err error) {
	b, err := readSmall(dir, "status")
	if err != nil {
		return 0, 0, err
	}
	found := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "Uid:" && f[0] != "Gid:" {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32) // real, effective, saved, file system
		if err != nil {
			break
		}
		if found++; f[0] == "Uid:" {
			uid = uint32(n)
		} else {
			gid = uint32(n)
		}
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("%w: /proc status not understood", ErrUnattributed)
	}
	return uid, gid, nil
}

// readSmall reads one of the process's files, of at most 16 KiB.
func readSmall(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		buf := make([]byte, 16<<10)
		for n := 0; n < len(buf); {
			var m int
			if m, err = unix.Read(fd, buf[n:]); m <= 0 {
				if err == nil {
					return buf[:n], nil
				}
				break
			}
			n += m
		}
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil, ErrGone
	}
	return nil, fmt.Errorf("%w: read /proc %s: %v", ErrUnattributed, name, err)
}

// names caches answers of the user database for a minute: reading it costs more
// than all the rest.
type names struct {
	lookup func(id string) string
	mu     sync.Mutex // guards known, not held during a lookup
	known  map[string]named
}

type named struct {
	name  string
	until time.Time
}

var (
	users = names{lookup: func(id string) string {
		if u, err := user.LookupId(id); err == nil {
			return u.Username
		}
		return ""
	}}
	groups = names{lookup: func(id string) string {
		if g, err := user.LookupGroupId(id); err == nil {
			return g.Name
		}
		return ""
	}}
)

func (c *names) name(id string) string {
	now := time.Now()
	c.mu.Lock()
	n, ok := c.known[id]
	c.mu.Unlock()
	if ok && now.Before(n.until) {
		return n.name
	}
	n = named{c.lookup(id), now.Add(time.Minute)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= 1024 {
		c.known = make(map[string]named)
	}
	c.known[id] = n
	return n.name
}
