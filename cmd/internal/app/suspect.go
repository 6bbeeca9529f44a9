package app

import (
	"strings"
	"sync/atomic"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// suspects is which kinds of state local programs get whole although its owner is held, shut out or
// frozen here: its last good state. Of the other kinds they get everything but the value, so that
// anybody can see what there is and nobody goes by it. The zero value opens none.
type suspects struct {
	kinds atomic.Pointer[[]string] // as policy said last; a trailing * stands for any rest
}

// open has policy's answer from now on.
func (s *suspects) open(kinds []string) { s.kinds.Store(&kinds) }

// opens reports whether suspect state of a kind is open.
func (s *suspects) opens(kind string) bool {
	kinds := s.kinds.Load()
	if kinds == nil {
		return false
	}
	for _, open := range *kinds {
		if prefix, any := strings.CutSuffix(open, "*"); open == kind || any && strings.HasPrefix(kind, prefix) {
			return true
		}
	}
	return false
}

// doubted marks an entry that is in a part of its owner's state which the authority keeps out.
func (a *App) doubted(e replica.Entry) replica.Entry {
	e.Suspect = e.Suspect || a.keptOut.covers(e.Owner, e.Kind, e.Name)
	return e
}

// withheld reports whether the value of an entry is kept from local programs. Its own state no node
// keeps from itself.
func (a *App) withheld(e replica.Entry) bool {
	if !e.Suspect || e.Owner == a.cfg.Node {
		return false
	}
	a.standing.roster() // for what policy says now
	return !a.suspects.opens(e.Kind)
}
