package replica

import "github.com/bailiwick-mesh/bailiwick/gossip/feed"

// withheld reports whether a peer may not be sent a record whole.
func (r *Replica) withheld(s *session, rec feed.Record) bool {
	return r.cfg.Resides != nil && !r.cfg.Resides(s.peer.id, rec)
}
