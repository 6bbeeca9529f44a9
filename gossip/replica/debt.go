package replica

import (
	"cmp"
	"context"
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
	Owed     Backlog   // what we hold and it did not when it last told
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
		d = r.debt(time.Now())
		return nil
	})
	return d, err
}

// Frontier returns the heads held of all feeds, and their root.
func (r *Replica) Frontier(ctx context.Context) (feed.Frontier, [32]byte, error) {
	heads := feed.Frontier{}
	err := r.do(ctx, func() error {
		for _, c := range r.chains {
			for f, h := range c.Heads() {
				heads[f] = h
			}
		}
		return nil
	})
	return heads, heads.Root(), err
}

func (r *Replica) debt(now time.Time) Debt {
	var d Debt
	furthest := map[feed.FeedID]feed.Head{}
	for _, p := range r.peers {
		pd := PeerDebt{Peer: p.id, Attached: p.sessions > 0, Heard: p.heard}
		for f, h := range p.signed {
			c := r.chains[f.Origin]
			ours := c.Head(f.Epoch)
			if h.Seq <= ours.Seq {
				delete(p.signed, f)
				continue
			}
			if !c.Wants(f.Epoch, ours.Seq+1) {
				continue
			}
			pd.Missing.add(h.Seq-ours.Seq, less(h.Bytes, ours.Bytes), h.HLC, now)
			if h.Seq > furthest[f].Seq {
				furthest[f] = h
			}
		}
		ours, _ := r.frontier(p.id)
		for f, h := range ours {
			have := p.has(f)
			if have >= h.Seq {
				continue
			}
			c := r.chains[f.Origin]
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
		ours := r.chains[f.Origin].Head(f.Epoch)
		d.Missing.add(h.Seq-ours.Seq, less(h.Bytes, ours.Bytes), h.HLC, now)
	}
	slices.SortFunc(d.Peers, func(a, b PeerDebt) int { return cmp.Compare(a.Peer.String(), b.Peer.String()) })
	return d
}

// less is a-b, or zero: a is a peer's word.
func less(a, b uint64) uint64 { return a - min(a, b) }

func (r *Replica) measure(now time.Time) {
	d := r.debt(now)
	r.metrics.missing.Set(float64(d.Missing.Records))
	r.metrics.owed.Set(float64(d.Owed.Records))
	r.metrics.sessions.Set(float64(len(r.sessions)))
}
