package caller

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// socket is how a Process from a TCP address finds its socket again.
type socket struct {
	find   func() ([]diagSocket, error)
	inodes []uint32
	fd     int // with which the process held the last of them
}

// FromTCP attributes the socket bound to client and connected to server, both
// as our end of the connection names them (RemoteAddr, LocalAddr); IPv4-mapped
// addresses are taken as IPv4. The caller must Close the Process. It fails with
// ErrUnattributed, or ErrGone and ErrChanged if the process did not hold still.
func FromTCP(client, server netip.AddrPort) (*Process, error) {
	p, err := fromSockets(func() ([]diagSocket, error) {
		s, err := connected(client, server)
		return []diagSocket{s}, err
	})
	if err != nil {
		return nil, fmt.Errorf("client %s of %s: %w", client, server, err)
	}
	return p, nil
}

// FromListener attributes the socket, or all the sockets, that take connections
// to addr. The caller must Close the Process. To know who got a connection,
// attribute, connect, then Recheck. Errors are those of FromTCP.
func FromListener(addr netip.AddrPort) (*Process, error) {
	p, err := fromSockets(func() ([]diagSocket, error) { return listeners(addr) })
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", addr, err)
	}
	return p, nil
}

func fromSockets(find func() ([]diagSocket, error)) (*Process, error) {
	found, err := find()
	if err != nil {
		return nil, err
	}
	holders, err := owners(found)
	if err != nil {
		return nil, err
	}
	p := holders[0]
	closeAll(holders[1:])
	p.sock = &socket{find, inodes(found), p.heldBy}
	return p, nil
}

// recheck is Recheck for the socket of p, of which looking at the process alone
// has said err.
func (s *socket) recheck(p *Process, err error) error {
	found, findErr := s.find()
	if findErr != nil || slices.Contains(inodes(found), 0) {
		return fmt.Errorf("%w: or it closed the socket", ErrGone)
	}
	if !slices.Equal(inodes(found), s.inodes) {
		return fmt.Errorf("%w: the address has other sockets now", ErrChanged)
	}
	if err != nil {
		return fmt.Errorf("%w: the socket is still held: %w", ErrChanged, err)
	}
	if len(found) == 1 && hints.cover(found[0].uid, p.PID) && (holder{p.PID, s.fd}).holds(p, found[0].inode) == nil {
		return nil
	}
	holders, err := owners(found)
	if err != nil {
		return err
	}
	defer closeAll(holders)
	if !slices.ContainsFunc(holders, func(h *Process) bool { return h.PID == p.PID }) || !p.like(holders[0]) {
		return fmt.Errorf("%w: pid %d holds the socket now", ErrChanged, holders[0].PID)
	}
	return nil
}

func closeAll(all []*Process) {
	for _, p := range all {
		p.Close()
	}
}

// owners attributes the holders of all the sockets: at least one, by ascending
// process ID, all alike. The caller must close them.
func owners(sockets []diagSocket) (all []*Process, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
			all = nil
		}
	}()
	for _, s := range sockets {
		if s.inode == 0 {
			return all, fmt.Errorf("%w: its process has closed it", ErrUnattributed)
		}
		some, err := ownersOf(s)
		if err != nil {
			return all, err
		}
		all = append(all, some...)
	}
	first := all[0]
	for _, p := range all {
		if p != first && !p.like(first) {
			return all, fmt.Errorf("%w: pid %d and pid %d hold it and are not the same program and user", ErrUnattributed, first.PID, p.PID)
		}
	}
	slices.SortFunc(all, func(a, b *Process) int { return a.PID - b.PID })
	return all, nil
}

// ownersOf attributes the holders of one socket. A program that is just being
// started holds its parent's sockets for a moment, so holders that do not hold
// still are looked for again.
func ownersOf(s diagSocket) (all []*Process, err error) {
	for try := range 3 {
		holders, hinted := []holder(nil), false
		if try == 0 {
			holders, hinted = hints.holders(s)
		}
		if !hinted {
			if holders, err = scans.holders(s.inode); err != nil {
				return nil, err
			}
		}
		if all, err = attributeAll(s, holders); err == nil {
			if !hinted {
				hints.add(s.uid, all)
			}
			return all, nil
		}
		if !errors.Is(err, ErrGone) && !errors.Is(err, ErrChanged) {
			return nil, err
		}
	}
	return nil, err
}

func attributeAll(s diagSocket, holders []holder) (counted []*Process, err error) {
	var all []*Process
	defer func() {
		for _, p := range all {
			if !slices.Contains(counted, p) {
				p.Close()
			}
		}
	}()
	for _, h := range holders {
		p, err := h.attribute(s.inode)
		if err != nil {
			return nil, fmt.Errorf("pid %d: %w", h.pid, err)
		}
		all = append(all, p)
	}
	some := count(all)
	if len(some) == 0 {
		return nil, fmt.Errorf("%w: no process that may be looked at holds it", ErrUnattributed)
	}
	for _, p := range some {
		if p.UID != s.uid && s.uid != 0 {
			return nil, fmt.Errorf("%w: uid %d made it and pid %d, uid %d, holds it", ErrUnattributed, s.uid, p.PID, p.UID)
		}
	}
	return some, nil
}

// count leaves out root's processes beside another user's, and process 1 beside
// others.
func count(all []*Process) []*Process {
	out := slices.Clone(all)
	if slices.ContainsFunc(all, func(p *Process) bool { return p.UID != 0 }) {
		out = slices.DeleteFunc(out, func(p *Process) bool { return p.UID == 0 })
	}
	if len(out) > 1 {
		out = slices.DeleteFunc(out, func(p *Process) bool { return p.PID == 1 })
	}
	return out
}
