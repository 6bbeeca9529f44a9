package replica

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Backlog is an amount of records on one side that the other lacks.
type Backlog struct {
	Records uint64
	Bytes   uint64        // as the side that has them says
	Oldest  time.Duration // age of the oldest that is known of, by its origin's clock
}

func (b *Backlog) add(records, bytes uint64, written feed.HLC, now time.Time) {
	b.Records += records
	b.Bytes += bytes
	b.Oldest = max(b.Oldest, now.Sub(written.Time()))
}

// PeerDebt is the sync debt between this node and one peer.
type PeerDebt struct {
	Peer     spiffeid.ID
	Attached bool
	Heard    time.Time // when it last said anything; what it says of Owed is that old
	Missing  Backlog   // signed heads it showed, less what we hold
	Owed     Backlog   // what we hold and it did not when it last told, or when it was lost; nothing of one that others push to, or that is away and held
}

// Debt is the node's sync debt.
type Debt struct {
	Missing Backlog // by the furthest signed head of each feed that any peer showed
	Owed    Backlog // over all peers together
	Peers   []PeerDebt
}

// Debt returns what is missing here and at peers, as far as known. Feeds that are
// held or frozen are not wanted, and no debt.
func (r *Replica) Debt(ctx context.Context) (Debt, error) {
	var d Debt
	err := r.do(ctx, func() error {
		d = r.debt(r.cfg.Now())
		return nil
	})
	return d, err
}

// Frontier returns the heads held of all feeds, and their root.
func (r *Replica) Frontier(ctx context.Context) (feed.Frontier, [32]byte, error) {
	var heads feed.Frontier
	err := r.do(ctx, func() error {
		heads = r.heads()
		return nil
	})
	return heads, heads.Root(), err
}

func (r *Replica) heads() feed.Frontier {
	heads := feed.Frontier{}
	for _, c := range r.chains {
		maps.Insert(heads, c.Heads())
	}
	return heads
}

func (r *Replica) debt(now time.Time) Debt {
	var d Debt
	furthest := map[feed.FeedID]feed.Head{}
	for _, p := range r.peers {
		pd := PeerDebt{Peer: p.id, Attached: p.sessions > 0, Heard: p.heard}
		for f, h := range p.signed {
			c := r.chains[f.Origin]
			if h.Seq < c.Next(f.Epoch) {
				delete(p.signed, f)
				continue
			}
			lacks := c.Missing(f.Epoch, h.Seq)
			if lacks == 0 {
				continue
			}
			pd.Missing.add(lacks, missingBytes(c, f.Epoch, h), h.HLC, now)
			if h.Seq > furthest[f].Seq {
				furthest[f] = h
			}
		}
		if p.sessions > 0 && !p.eager {
			d.Peers = append(d.Peers, pd)
			continue // the mesh serves it, and what it has is not known
		}
		if c := r.chains[p.id]; p.sessions == 0 && c != nil && c.Held() {
			d.Peers = append(d.Peers, pd)
			continue // it is given nothing until it is released
		}
		for f, h := range r.carriedWith(p).tree.Heads("") {
			have := p.has(f)
			if have >= h.Seq {
				continue
			}
			c := r.chains[f.Origin]
			have = max(have, c.Start(f.Epoch)-1) // older ones nobody needs any more
			common, _ := c.At(f.Epoch, have)
			oldest, _ := c.At(f.Epoch, have+1)
			pd.Owed.add(h.Seq-have, less(h.Bytes, common.Bytes), oldest.HLC, now)
		}
		d.Owed.Records += pd.Owed.Records
		d.Owed.Bytes += pd.Owed.Bytes
		d.Owed.Oldest = max(d.Owed.Oldest, pd.Owed.Oldest)
		d.Peers = append(d.Peers, pd)
	}
	for f, h := range furthest {
		c := r.chains[f.Origin]
		d.Missing.add(c.Missing(f.Epoch, h.Seq), missingBytes(c, f.Epoch, h), h.HLC, now)
	}
	slices.SortFunc(d.Peers, func(a, b PeerDebt) int { return cmp.Compare(a.Peer.String(), b.Peer.String()) })
	return d
}

// missingBytes is what lies between ours and a head: all the peer has of the feed
// where that begins anew with a snapshot.
func missingBytes(c *feed.Chain, epoch uint64, h feed.Head) uint64 {
	ours := c.Head(epoch)
	if c.Next(epoch) > ours.Seq+1 {
		return h.Bytes
	}
	return less(h.Bytes, ours.Bytes)
}

// less is a-b, or zero: a is a peer's word.
func less(a, b uint64) uint64 { return a - min(a, b) }

func (r *Replica) measure(now time.Time) {
	d := r.debt(now)
	r.metrics.missing.set(d.Missing)
	r.metrics.owed.set(d.Owed)
	r.measureLinks()
}
