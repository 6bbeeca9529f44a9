package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A feed is left to those who come first as long as they bring something, and no longer
// than it may take if they do not.
func TestTurn(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	var x crossings
	const step = 250 * time.Millisecond
	for _, test := range []struct {
		name string
		c    crossing
		news time.Duration // after the start; zero: none
		want time.Duration
	}{
		{"first", crossing{}, 0, 0},
		{"first, while others come", crossing{}, time.Minute, 0},
		{"first among some who do not see each other", crossing{chance: 0.5}, 0, crossFirst * step / 2},
		{"the same, while others come", crossing{chance: 0.5}, time.Second, time.Second + step/2/crossIdle},
		{"the same, and others came just then", crossing{chance: 0.5}, time.Millisecond, crossFirst * step / 2},
		{"the same, and others come without an end", crossing{chance: 0.5}, time.Hour, crossAge + step/2/crossIdle},
		{"the same, and a near peer has brought some", crossing{chance: 0.5, brought: true}, time.Second, time.Second + step*3/2},
		{"third", crossing{rank: 2}, 0, 2 * step},
		{"one of the last", crossing{rank: 9, chance: 0.5}, 0, 3*step + step/2},
		{"second, while others come", crossing{rank: 1}, 10 * time.Second, 10*time.Second + step},
		{"second, and nothing of this one comes", crossing{rank: 1}, time.Hour, crossAge + step},
		{"first, and a near peer has brought some", crossing{brought: true}, 0, step},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.c.moved, x.news = start, time.Time{}
			if test.news > 0 {
				x.news = start.Add(test.news)
			}
			if got := x.turn(&test.c, step).Sub(start); got != test.want {
				t.Errorf("its turn comes after %s, want %s", got, test.want)
			}
		})
	}
	for _, test := range []struct {
		bytes int
		round time.Duration
		want  time.Duration
	}{
		{0, 0, 0}, {crossRate, 0, step}, {crossRate, 300 * time.Millisecond, 600 * time.Millisecond},
		{crossRate << 10, 0, time.Second}, {0, time.Hour, time.Second},
	} {
		p := peer{more: test.bytes, round: test.round}
		if got := p.step(); got != test.want {
			t.Errorf("%d bytes, round trip %s: a step of %s, want %s", test.bytes, test.round, got, test.want)
		}
	}
}

// What near peers bring pays for the time that a feed is left to them: neither a burst nor a long
// silence counts for more than some seconds.
func TestNearPeersHaveToBringEnough(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	const least = 64 << 10
	for _, test := range []struct {
		name  string
		bytes int
		every time.Duration
		until time.Duration // that they bring enough; 0: always
	}{
		{"as much as it takes", least / 10, 100 * time.Millisecond, 0},
		{"a lot, rarely", 4 * least, 3 * time.Second, 0},
		{"half of it", least / 20, 100 * time.Millisecond, 2 * crossMost},
		{"next to nothing", 1, time.Second, crossMost},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := crossings{least: least, paid: start.Add(crossMost)}
			ended := time.Duration(0)
			for at := time.Duration(0); at < time.Minute && ended == 0; at += test.every {
				if !x.pays(test.bytes, start.Add(at)) {
					ended = at
				}
			}
			if test.until == 0 && ended > 0 || test.until > 0 && (ended < test.until-time.Second || ended > test.until+2*time.Second) {
				t.Errorf("they are left nothing after %s, want %s", ended, test.until)
			}
		})
	}
	x := crossings{least: least, paid: start}
	if x.pays(1, start.Add(time.Hour)) || x.pays(3*least, start.Add(time.Hour)) || !x.pays(2*least, start.Add(time.Hour)) {
		t.Error("who comes back to it is left nothing, or more at once")
	}
}

// A near peer that left a want for a feed unanswered does not end the one under way to a far one.
func TestSilentNearPeerEndsNothing(t *testing.T) {
	f := feed.FeedID{Origin: nodeID(1), Epoch: 1}
	r := &Replica{crossings: newCrossings()}
	r.crossings.of[f] = &crossing{}
	under := &pull{from: &session{peer: &peer{}}}
	if near := (&peer{near: true}); !r.needless(f, under, near) {
		t.Error("what a near peer has is fetched across")
	}
	if near := (&peer{near: true, silent: map[feed.FeedID]silence{f: {times: 1}}}); r.needless(f, under, near) {
		t.Error("it is believed once more, and the far peer has to send everything again")
	}
}

// Of all nodes that see each other exactly one is the first for a feed, another for another.
func TestRank(t *testing.T) {
	const nodes = 8
	var all []*Replica
	for i := range nodes {
		r := &Replica{cfg: Config{Self: nodeID(i), Roster: func() []Member { return nil }}, name: name(nodeID(i)), holds: nil}
		for j := range nodes {
			if j != i {
				r.attached = append(r.attached, &session{peer: &peer{id: nodeID(j), name: name(nodeID(j)), near: true}})
			}
		}
		all = append(all, r)
	}
	firsts := map[int]int{}
	for origin := range 200 {
		f := feed.FeedID{Origin: nodeID(100 + origin), Epoch: 1}
		seen := map[int]bool{}
		for i, r := range all {
			rank, chance := r.rank(f)
			if seen[rank] || rank >= nodes || chance < 0 || chance >= 1 || rank == 0 && chance != 0 {
				t.Fatalf("%s: node %d has rank %d and chance %f", f, i, rank, chance)
			}
			seen[rank] = true
			if rank == 0 {
				firsts[i]++
			}
		}
	}
	for i := range nodes {
		if firsts[i] < 10 {
			t.Errorf("node %d is first for %d of 200 feeds", i, firsts[i])
		}
	}
	lone := &Replica{cfg: Config{Self: nodeID(1), Roster: func() []Member { return make([]Member, 100) }}, name: name(nodeID(1))}
	early := 0
	for origin := range 1000 {
		if rank, chance := lone.rank(feed.FeedID{Origin: nodeID(100 + origin), Epoch: 1}); rank == 0 && chance == 0 {
			early++
		}
	}
	if early < 2 || early > 30 { // about one in a hundred
		t.Errorf("of 1000 who do not see each other %d do not wait", early)
	}
}

// What a far peer claims without a signature keeps no record that is written since from others.
func TestClaimSilencesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, far := newNode(t, 1), newNode(t, 2), newHostile(t, 9)
		connect(a, b)
		settle(2 * time.Second)
		a.put("x", "1")
		settle(5 * time.Second)
		f := feed.FeedID{Origin: a.id, Epoch: 1}
		on := far.to(b)
		for _, told := range headsFrames(feed.Frontier{f: {Seq: 1 << 50, Bytes: 1 << 40}}) {
			on.send(frameHeads, told[5:])
		}
		settle(100 * time.Millisecond)
		seq := a.put("y", "2").Seq
		settle(100 * time.Millisecond)
		honest, liar := &peer{id: nodeID(3)}, &peer{id: far.id, claims: map[feed.FeedID]feed.Head{f: {Seq: 1 << 50}}}
		if err := b.do(t.Context(), func() error {
			if b.crossings.of[f] == nil {
				t.Error("the claim was not taken up")
			}
			if b.hasFrom(honest, f, seq) {
				t.Error("a new record is not told to who claims nothing")
			}
			if !b.hasFrom(liar, f, seq) {
				t.Error("it is told to who claims to have it")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
