package replica

import (
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// What one session's comparisons may cost us. A second's worth is little; a whole
// frontier may be told at once.
const (
	compareBytes = 128 << 10   // a second
	compareBurst = maxFrontier // at once
	compareLook  = 8           // what it costs to look at one head

	compareBusy = 10 * time.Second // between two while one side catches up: both know what is missing
)

// catchingUp reports whether one side gets many records from the other.
func (s *session) catchingUp(now time.Time) bool {
	return s.owed >= pullPiece || now.Sub(s.served) < 2*tick
}

// receiveRoot compares roots: equal means the peer has what we have. If not, the node
// whose ID is the smaller starts going down, and the other shows it its own root. Who
// has nothing waits to be told everything.
func (r *Replica) receiveRoot(s *session, body []byte, now time.Time) error {
	if len(body) != 32 {
		return fmt.Errorf("%w: root of %d bytes", errFrame, len(body))
	}
	set, theirs := r.carriedWith(s.peer), [32]byte(body)
	ours := set.tree.Hash("")
	switch {
	case theirs == ours:
		s.peer.unclaim()
		s.peer.learns(set.frontier())
		clear(s.peer.signed)
	case now.Sub(s.told) < tick*9/10 || s.catchingUp(now) && now.Sub(s.told) < compareBusy:
	case theirs != empty && (ours == empty || s.peer.id.String() < r.cfg.Self.String()):
		s.told, s.compared = now, now
		r.sendRoot(s)
	case r.mayCompare(s, theirs, now):
		r.compare(s, theirs, now)
	}
	return nil
}

// compare goes down into what differs from a peer's copy, of which the root is theirs.
func (r *Replica) compare(s *session, theirs [32]byte, now time.Time) {
	s.told, s.compared = now, now
	d := descent{r: r, s: s, tree: &r.carriedWith(s.peer).tree, now: now}
	d.differ("", theirs)
	d.send()
}

var empty [32]byte // the hash of a subtree without heads

func (r *Replica) sendRoot(s *session) {
	root := r.carriedWith(s.peer).tree.Hash("")
	s.send(classControl, frame(frameRoot, root[:]))
}

// descent is what is to be said to a peer about subtrees that differ.
type descent struct {
	r      *Replica
	s      *session
	tree   *feed.HeadTree
	now    time.Time
	nodes  []branch
	leaves []leaves
	heads  feed.Frontier
}

// pay reports whether the peer may still have so much of us.
func (d *descent) pay(bytes int) bool { return d.s.compares.AllowN(d.now, bytes) }

// differ goes one step down into a subtree, of which the peer has another hash.
func (d *descent) differ(p feed.Prefix, theirs [32]byte) {
	if theirs == empty {
		d.tell(p, nil)
		return
	}
	if children, ok := d.tree.Children(p); ok {
		n := branch{p, children}
		if d.pay(len(encodeNode(n).Hashes)) {
			d.nodes = append(d.nodes, n)
		}
		return
	}
	l := leaves{p, feed.Frontier{}}
	size := 0
	for f, h := range d.tree.Heads(p) {
		if size += claimBytes(f); size > headsSize {
			return // more than eight whose hashes begin with the same 32 bits
		}
		l.heads[f] = h
	}
	if d.pay(size) {
		d.leaves = append(d.leaves, l)
	}
}

// tell says our heads of a subtree, but for those the peer has as well.
func (d *descent) tell(p feed.Prefix, theirs feed.Frontier) {
	for f, h := range d.tree.Heads(p) {
		if t := theirs[f]; t.Seq == h.Seq && t.ID == h.ID {
			continue
		}
		//bailiwick:check TestHeadLies/comparisons
		if !d.pay(claimBytes(f)) {
			return
		}
		if d.heads == nil {
			d.heads = feed.Frontier{}
		}
		d.heads[f] = h
	}
}

// send says it, as far as there is room; what is left shows with the next roots.
func (d *descent) send() {
	frames := append(nodesFrames(d.nodes), leavesFrames(d.leaves)...)
	for _, b := range frames {
		if d.s.out.full() {
			return
		}
		d.s.send(classControl, b)
	}
	if d.s.terms.Mode == Headers { // as tellHeads does for those it tells
		for _, l := range d.leaves {
			for _, f := range l.heads.Feeds() {
				d.r.sendUrgent(d.s, f)
			}
		}
	}
	if len(d.heads) > 0 {
		d.r.tellHeads(d.s, classControl, d.heads)
	}
}

// receiveNodes goes on where the peer's hashes differ from ours.
func (r *Replica) receiveNodes(s *session, body []byte, now time.Time) error {
	nodes, err := parseNodes(body)
	if err != nil {
		return err
	}
	r.answered(s, now)
	d := descent{r: r, s: s, tree: &r.carriedWith(s.peer).tree, now: now}
	defer d.send()
	for _, n := range nodes {
		if !d.pay(compareLook * (feed.Fanout + d.tree.Len(n.prefix))) {
			return nil
		}
		ours, ok := d.tree.Children(n.prefix)
		if !ok { // our heads are fewer than their hashes
			d.differ(n.prefix, [32]byte{1})
			continue
		}
		for i, theirs := range n.children {
			child := n.prefix.Child(i)
			if theirs != ours[i] {
				d.differ(child, theirs)
				continue
			}
			for f, h := range d.tree.Heads(child) {
				s.peer.holds(f, h)
			}
		}
	}
	return nil
}

// receiveLeaves asks for what the peer has of some subtrees and we lack, and tells it
// ours that are others.
func (r *Replica) receiveLeaves(s *session, body []byte, now time.Time) error {
	subtrees, err := parseLeaves(body)
	if err != nil {
		return err
	}
	r.answered(s, now)
	s.peer.told = true
	d := descent{r: r, s: s, tree: &r.carriedWith(s.peer).tree, now: now}
	defer d.send()
	for _, l := range subtrees {
		r.crossAll(s.peer, l.heads, now)
	}
	for _, l := range subtrees {
		if !d.pay(compareLook * (1 + len(l.heads) + d.tree.Len(l.prefix))) {
			return nil
		}
		d.tell(l.prefix, l.heads)
		for f := range d.tree.Heads(l.prefix) {
			s.peer.holds(f, l.heads[f])
		}
		for _, f := range l.heads.Feeds() {
			r.claim(s.peer, f, l.heads[f], now)
		}
	}
	return nil
}

// receiveHeads asks for what the peer has and we lack.
func (r *Replica) receiveHeads(s *session, body []byte, now time.Time) error {
	heads, err := parseHeads(body)
	if err != nil {
		return err
	}
	r.crossAll(s.peer, heads, now)
	for _, f := range heads.Feeds() {
		if r.chains[f.Origin] != nil {
			s.peer.tells(f, heads[f])
		}
		r.claim(s.peer, f, heads[f], now)
	}
	return nil
}

// has returns the last record of a feed the peer is known to hold.
func (p *peer) has(f feed.FeedID) uint64 {
	if h, ok := p.ahead[f]; ok {
		return h.Seq
	}
	return p.front[f].Seq
}

// tells notes a head the peer showed.
func (p *peer) tells(f feed.FeedID, h feed.Head) {
	if h.Seq > p.has(f) {
		p.holds(f, h)
	}
}

// holds notes what the peer has of a feed.
func (p *peer) holds(f feed.FeedID, h feed.Head) {
	if _, known := p.ahead[f]; p.eager && h.Seq != p.has(f) && (known || len(p.ahead) < maxFeeds) {
		p.ahead[f] = h
	}
}

// learns notes the whole of the peer's frontier.
func (p *peer) learns(f feed.Frontier) {
	p.agreed, p.near = true, true
	if p.eager {
		p.front = f
		clear(p.ahead)
	}
}
