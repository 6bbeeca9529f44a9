package caller

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Sizes and states of linux/inet_diag.h and net/tcp_states.h.
const (
	sizeHeader = unix.SizeofNlMsghdr
	sizeID     = 48
	sizeReq    = 8 + sizeID  // struct inet_diag_req_v2
	sizeMsg    = 24 + sizeID // struct inet_diag_msg
	stateAny   = 0xffffffff
	stateListn = 10
	attrV6Only = 11 // INET_DIAG_SKV6ONLY
)

// diagSocket is one TCP socket as sock_diag tells it.
type diagSocket struct {
	local, remote netip.AddrPort // IPv4-mapped addresses are told as IPv4
	listening     bool
	v6            bool // an AF_INET6 socket
	v6only        bool
	uid           uint32 // who made it
	inode         uint32 // zero: no process holds it any more
}

// connected finds the socket bound to local and connected to remote.
func connected(local, remote netip.AddrPort) (diagSocket, error) {
	family, index, err := familyOf(local)
	if err != nil {
		return diagSocket{}, err
	}
	local, remote = plain(local), plain(remote)
	found, err := diag(request(family, 0, stateAny, local, remote, index))
	if err != nil {
		return diagSocket{}, err
	}
	for _, s := range found {
		// Where there is no such connection, the kernel answers with the listener.
		if !s.listening && s.local == local && s.remote == remote {
			return s, nil
		}
	}
	return diagSocket{}, fmt.Errorf("%w: %w: none from %s to %s on this machine", ErrUnattributed, ErrNoSocket, local, remote)
}

// listeners finds the sockets among which the kernel chooses for a connection
// to addr.
func listeners(addr netip.AddrPort) ([]diagSocket, error) {
	family, _, err := familyOf(addr)
	if err != nil {
		return nil, err
	}
	addr = plain(addr)
	families := []uint8{unix.AF_INET6} // a wildcard AF_INET6 listener serves IPv4 too
	if family == unix.AF_INET {
		families = []uint8{unix.AF_INET, unix.AF_INET6}
	}
	var all []diagSocket
	for _, f := range families {
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
		if f == unix.AF_INET6 {
			from = netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
		}
		some, err := diag(request(f, unix.NLM_F_DUMP, 1<<stateListn, from, netip.AddrPortFrom(from.Addr(), 0), 0))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return choose(all, addr)
}

// choose is the listeners bound to addr itself, or else those bound to every
// address.
func choose(all []diagSocket, addr netip.AddrPort) ([]diagSocket, error) {
	var exact, wild []diagSocket
	for _, s := range all {
		switch {
		case !s.listening || s.local.Port() != addr.Port():
		case s.local.Addr() == addr.Addr():
			exact = append(exact, s)
		case s.local.Addr().IsUnspecified() && s.v6 == addr.Addr().Is6(),
			s.local.Addr().IsUnspecified() && s.v6 && !s.v6only:
			wild = append(wild, s)
		}
	}
	if len(exact) > 0 {
		return exact, nil
	}
	if len(wild) > 0 {
		return wild, nil
	}
	return nil, fmt.Errorf("%w: %w: nobody listens on %s", ErrUnattributed, ErrNoSocket, addr)
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func familyOf(a netip.AddrPort) (family uint8, index int, err error) {
	switch ip := a.Addr().Unmap(); {
	case !ip.IsValid() || a.Port() == 0:
		return 0, 0, fmt.Errorf("%w: %q is no address with a port", ErrUnattributed, a)
	case ip.Is4():
		return unix.AF_INET, 0, nil
	case ip.Zone() != "":
		i, err := net.InterfaceByName(ip.Zone())
		if err != nil {
			return 0, 0, fmt.Errorf("%w: zone of %s: %w", ErrUnattributed, a, err)
		}
		return unix.AF_INET6, i.Index, nil
	default:
		return unix.AF_INET6, 0, nil
	}
}

// request builds one netlink message with a struct inet_diag_req_v2.
func request(family uint8, flags uint16, states uint32, local, remote netip.AddrPort, index int) []byte {
	b := make([]byte, 0, sizeHeader+sizeReq)
	b = binary.NativeEndian.AppendUint32(b, sizeHeader+sizeReq)
	b = binary.NativeEndian.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(b, 1, 0, 0, 0, 0, 0, 0, 0) // sequence (any), port
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, states)
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	for _, a := range []netip.Addr{local.Addr(), remote.Addr()} {
		var field [16]byte
		copy(field[:], a.AsSlice())
		b = append(b, field[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // no cookie
}

// diag asks the kernel. It answers within the send, so nothing waits long.
func diag(req []byte) ([]diagSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("%w: sock_diag: %w", ErrUnattributed, err)
	}
	defer unix.Close(fd)
	tv := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, fmt.Errorf("%w: sock_diag: %w", ErrUnattributed, err)
	}
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("%w: sock_diag: %w", ErrUnattributed, err)
	}
	dump := binary.NativeEndian.Uint16(req[6:])&unix.NLM_F_DUMP != 0
	var all []diagSocket
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: sock_diag: %w", ErrUnattributed, err)
		}
		some, done, err := parseDiag(buf[:n])
		if errors.Is(err, unix.ENOENT) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: sock_diag: %w", ErrUnattributed, err)
		}
		if all = append(all, some...); done || !dump {
			return all, nil
		}
		if len(all) > 1<<16 {
			return nil, fmt.Errorf("%w: sock_diag: more than 65536 sockets on one port", ErrUnattributed)
		}
	}
}

var errDiag = errors.New("answer not understood")

// parseDiag reads the netlink messages of one answer; done is true after the
// last of a dump. The error may be the kernel's errno.
func parseDiag(b []byte) (all []diagSocket, done bool, err error) {
	for len(b) > 0 {
		if len(b) < sizeHeader {
			return nil, false, errDiag
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < sizeHeader || size > len(b) {
			return nil, false, errDiag
		}
		body := b[sizeHeader:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return all, true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return nil, false, errDiag
			}
			if e := int32(binary.NativeEndian.Uint32(body)); e < 0 && e >= -4095 {
				return nil, false, unix.Errno(-e)
			}
			return nil, false, errDiag
		case unix.SOCK_DIAG_BY_FAMILY:
			s, err := parseSocket(body)
			if err != nil {
				return nil, false, err
			}
			all = append(all, s)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return all, false, nil
}

func parseSocket(b []byte) (diagSocket, error) {
	if len(b) < sizeMsg {
		return diagSocket{}, errDiag
	}
	var s diagSocket
	addr := func(b []byte) (a netip.Addr) {
		if s.v6 {
			a, _ = netip.AddrFromSlice(b[:16])
		} else {
			a, _ = netip.AddrFromSlice(b[:4])
		}
		return a.Unmap()
	}
	switch b[0] {
	case unix.AF_INET:
	case unix.AF_INET6:
		s.v6 = true
	default:
		return diagSocket{}, errDiag
	}
	s.listening = b[1] == stateListn
	s.local = netip.AddrPortFrom(addr(b[8:]), binary.BigEndian.Uint16(b[4:]))
	s.remote = netip.AddrPortFrom(addr(b[24:]), binary.BigEndian.Uint16(b[6:]))
	s.uid = binary.NativeEndian.Uint32(b[64:])
	s.inode = binary.NativeEndian.Uint32(b[68:])
	for b = b[sizeMsg:]; len(b) >= 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return diagSocket{}, errDiag
		}
		if binary.NativeEndian.Uint16(b[2:]) == attrV6Only && size > 4 {
			s.v6only = b[4] != 0
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return s, nil
}

// inodes of the sockets, sorted, each once.
func inodes(all []diagSocket) []uint32 {
	out := make([]uint32, 0, len(all))
	for _, s := range all {
		out = append(out, s.inode)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
