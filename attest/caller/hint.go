package caller

import (
	"slices"
	"sync"
	"time"
)

// HintFor is how long what a complete scan found is good for: for this long, a
// socket that one of these processes holds and their user made is taken to be
// theirs alone.
const HintFor = time.Second

// maxHints bounds the groups remembered, maxTries those looked at for a socket.
const maxHints, maxTries = 64, 8

// group is the holders of one socket, proven to be alike by a complete scan.
type group struct {
	uid   uint32 // who made their socket
	pids  []int
	until time.Time
}

// hinted are the groups found last, newest first.
type hinted struct {
	mu     sync.Mutex // held briefly, never during a system call
	groups []group
}

var hints hinted

func (h *hinted) add(uid uint32, all []*Process) {
	g := group{uid: uid, until: time.Now().Add(HintFor)}
	for _, p := range all {
		g.pids = append(g.pids, p.PID)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.groups = slices.DeleteFunc(h.groups, func(o group) bool {
		return slices.Equal(o.pids, g.pids) || time.Now().After(o.until)
	})
	h.groups = slices.Insert(h.groups, 0, g)
	h.groups = h.groups[:min(len(h.groups), maxHints)]
}

// holders looks for the socket in the groups of the user that made it. What it
// finds is pinned and inspected anew like any other holder: a hint saves the
// rest of the scan and nothing else.
func (h *hinted) holders(s diagSocket) ([]holder, bool) {
	for _, g := range h.of(s.uid) {
		found := make(map[uint32][]holder)
		for _, pid := range g.pids {
			_ = scanOne(pid, map[uint32]bool{s.inode: true}, found)
		}
		if all := found[s.inode]; len(all) > 0 {
			return all, true
		}
	}
	return nil, false
}

// cover reports whether a complete scan lately proved pid to hold sockets that
// uid made with its like only.
func (h *hinted) cover(uid uint32, pid int) bool {
	return slices.ContainsFunc(h.of(uid), func(g group) bool { return slices.Contains(g.pids, pid) })
}

func (h *hinted) of(uid uint32) []group {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []group
	for _, g := range h.groups {
		if g.uid == uid && time.Now().Before(g.until) && len(out) < maxTries {
			out = append(out, g)
		}
	}
	return out
}
