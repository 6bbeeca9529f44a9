package caller

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerPidfd asks the kernel for a pidfd of the process that connected
// (Linux 6.5); ENOPROTOOPT from an older one.
func peerPidfd(fd int) (int, error) {
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
}

func openPidfd(pid int) (int, error) { return unix.PidfdOpen(pid, 0) }

// gone reports whether err says that a process is no more. SO_PEERPIDFD says
// EINVAL or ENODATA of a reaped peer, depending on the kernel.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EINVAL)
}

// alive reports whether the process has not ended. While it has not, its
// process ID belongs to it.
func alive(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n == 0
	}
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h in its first version.
type pidfdInfo struct {
	mask, cgroup                       uint64
	pid, tgid, ppid                    uint32
	ruid, rgid, euid, egid, suid, sgid uint32
	fsuid, fsgid                       uint32
	exit                               int32
}

// ioctlPidfdInfo is PIDFD_GET_INFO for that version: _IOWR(0xff, 11, 64).
const ioctlPidfdInfo = 3<<30 | unix.PIDFD_INFO_SIZE_VER0<<16 | 0xff<<8 | 11

// credentials asks the kernel for the effective user and group by pidfd
// (Linux 6.13); ok is false where it cannot say.
func credentials(pidfd int) (pid int, uid, gid uint32, ok bool) {
	info := pidfdInfo{mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), ioctlPidfdInfo, uintptr(unsafe.Pointer(&info)))
	if e != 0 || info.mask&unix.PIDFD_INFO_CREDS == 0 {
		return 0, 0, 0, false
	}
	return int(info.tgid), info.euid, info.egid, true
}
