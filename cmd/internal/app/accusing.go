package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// accusing turns what this node finds of its peers' machines, and can prove to nobody, into what
// their standing is here and into accusations under this node's own keys:
//
//	/<node>/accusation/<quarantine.AccusationName of the accused>
//
// A peer is held here while the finding stands. Where this node is its assigned observer and in
// good health itself, it accuses the peer too, again before the accusation ends, and takes it back
// when the finding is over. What it knows is rebuilt after a restart, from judging anew.
type accusing struct {
	self     spiffeid.ID
	set      *quarantine.Set
	changed  func(spiffeid.ID) // a standing may have
	degraded func() bool       // this node hears too little itself to accuse others
	record   func(body map[string]any) error

	mu       sync.Mutex // held for map work, and while a leaf is written
	suspects map[spiffeid.ID]suspect
	said     map[spiffeid.ID]quarantine.Accusation // by this node, in this run
}

// suspect is a peer with a finding in force.
type suspect struct {
	rule, detail string
	evidence     feed.ID   // the record that was refused; zero: none came
	seen         time.Time // when what is wrong was last news
}

func newAccusing(self spiffeid.ID, set *quarantine.Set) *accusing {
	return &accusing{self: self, set: set, suspects: map[spiffeid.ID]suspect{}, said: map[spiffeid.ID]quarantine.Accusation{}}
}

// found takes in what is found of a peer now: rule is empty where nothing is. evidence is what it
// rests on and came when that was newest.
func (c *accusing) found(now time.Time, id spiffeid.ID, rule, detail string, evidence feed.ID, came time.Time) {
	if id == c.self {
		return
	}
	c.mu.Lock()
	was, known := c.suspects[id]
	switch {
	case rule == "" && !known:
		c.mu.Unlock()
		return
	case rule != "":
		is := suspect{rule, detail, evidence, was.seen}
		if !known || was.rule != rule || was.evidence != evidence {
			is.seen = now
		}
		c.suspects[id] = is
		c.set.Doubt(now, id, rule, short(detail))
	case c.set.Standing(id, now).Standing >= quarantine.Quarantined && !came.After(was.seen):
		rule = was.rule // it is silent because it is shut out, which clears it of nothing
	default:
		delete(c.suspects, id)
		c.set.Trust(id)
	}
	c.mu.Unlock()
	if known != (rule != "") {
		c.changed(id)
	}
}

// maxStory bounds what is said of what was seen, in bytes.
const maxStory = 200

func short(s string) string {
	if len(s) > maxStory {
		s = strings.ToValidUTF8(s[:maxStory], "")
	}
	return s
}

// wanted are the accusations that this node's feed should show, by name, and the names of those
// that are long over.
func (c *accusing) wanted(now time.Time, budget int) (show map[string][]byte, over []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	show = map[string][]byte{}
	mayAccuse := !c.degraded() && !c.set.Standing(c.self, now).Standing.Contained()
	accuse := map[spiffeid.ID]bool{}
	for _, id := range slices.SortedFunc(maps.Keys(c.suspects), compareIDs) {
		if mayAccuse && len(accuse) < budget && c.set.Observes(c.self, id) {
			accuse[id] = true
		}
	}
	for id := range accuse {
		s, said := c.suspects[id], c.said[id]
		if said.Class == s.rule && said.Seen.Equal(millis(s.seen)) && said.Expires.Sub(now) > quarantine.AccusationTerm/2 {
			continue
		}
		a := quarantine.Accusation{
			Accused: id, Class: s.rule, What: short(s.detail), Seen: millis(s.seen), At: millis(now), Expires: millis(now).Add(quarantine.AccusationTerm),
		}
		if said.Class != s.rule || said.Withdrawn() {
			if err := c.record(map[string]any{"accused": id.String(), "class": a.Class, "what": a.What, "until": a.Expires}); err != nil {
				return nil, nil, err
			}
		}
		c.said[id] = a
	}
	for id, said := range c.said {
		_, suspected := c.suspects[id]
		switch {
		case !suspected && !said.Withdrawn() && now.Before(said.Expires):
			if err := c.record(map[string]any{"accused": id.String(), "class": said.Class, "withdrawn": true}); err != nil {
				return nil, nil, err
			}
			said.At, said.Expires = millis(now), millis(now)
			c.said[id] = said
		case now.After(said.Expires.Add(quarantine.AccusationTerm)):
			delete(c.said, id)
			over = append(over, quarantine.AccusationName(id))
			continue
		}
		b, err := said.Encode()
		if err != nil {
			return nil, nil, err
		}
		show[quarantine.AccusationName(id)] = b
	}
	return show, over, nil
}

func compareIDs(a, b spiffeid.ID) int { return cmp.Compare(a.String(), b.String()) }

// count is how many this node accuses now.
func (c *accusing) count(now time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.said {
		if now.Before(a.Expires) {
			n++
		}
	}
	return n
}

// millis is the precision of accusations.
func millis(t time.Time) time.Time { return t.Truncate(time.Millisecond).UTC() }

// accusationSchema bounds what a node may write as an accusation: one for each accused.
func accusationSchema(name string, value []byte) error {
	a, err := quarantine.ParseAccusation(value)
	if err == nil && name != quarantine.AccusationName(a.Accused) {
		err = quarantine.ErrAccusation
	}
	return err
}

// observers are the nodes of the region that may be observers: those with a TPM, or in a dev trust
// domain any. A node's failure domain is its zone or, without one, itself.
func (a *App) observers() (out []quarantine.Member) {
	for _, n := range append(a.dir.neighbours(), neighbour{id: a.cfg.Node}) {
		if node, err := identity.ParseNode(n.id); err == nil && (a.cfg.Dev || a.enrolledAs(n.id).kind == "tpm") {
			out = append(out, quarantine.Member{ID: n.id, Domain: node.FailureDomain()})
		}
	}
	return out
}

// accusation takes in what a node says of another under its own key.
func (s *standings) accusation(by spiffeid.ID, raw []byte) error {
	s.roster() // who has a say
	a, _, err := s.set.Accuse(time.Now(), by, raw)
	if err == nil {
		s.contain(a.Accused)
	}
	return err
}

// reconsider looks again at what policy refused because of a standing that is over.
func (a *App) reconsider() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.replica.Reconsider(ctx); err != nil {
		a.log.Error("what was refused of a node that is let in again", "err", err)
	}
}

// wantAccusations shows what this node accuses others of. Only publish calls it.
func (a *App) wantAccusations(want func(kind, name string, scope feed.Scope, value []byte)) (gone []feed.Op, err error) {
	show, over, err := a.accusing.wanted(time.Now(), a.standing.set.Thresholds().Budget)
	for name, b := range show {
		want(feed.KindAccusation, name, feed.ScopeRegion, b)
	}
	for _, name := range over {
		gone = append(gone, feed.Op{Key: feed.KeyOf(a.cfg.Node, feed.KindAccusation, name), Action: feed.Del})
	}
	return gone, err
}

func (a *App) newAccusing() *accusing {
	c := newAccusing(a.cfg.Node, a.standing.set)
	c.changed = a.standing.contain
	c.degraded = func() bool { return a.serf.degraded() }
	c.record = func(body map[string]any) error { return a.leaf(trail.PeerAccuse, body) }
	return c
}

// accusationStory tells who accuses an identity of what, until when, and how many of how many count.
func accusationStory(t quarantine.Tally) (out []string) {
	if len(t.Charges) == 0 {
		return nil
	}
	needs := fmt.Sprintf("%d make a quorum", t.Quorum)
	if t.Quorum == 0 {
		needs = "too few for a quorum"
	}
	out = append(out, fmt.Sprintf("%d of %d assigned observers accuse it: %s", t.Count, t.Observers, needs))
	for _, c := range t.Charges {
		line := fmt.Sprintf("%s accuses it of %s, seen %s, until %s: %s", c.Accuser, c.Class, c.Seen.Format(time.RFC3339), c.Expires.Format(time.RFC3339), c.What)
		if !c.Counts {
			line += " (does not count: " + c.Why + ")"
		}
		out = append(out, line)
	}
	return out
}
