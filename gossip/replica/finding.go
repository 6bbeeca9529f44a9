package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// maxFindings is how many findings are kept of one feed. Any number can be made of one
// whose key signs at will.
const maxFindings = 16

// finding is a finding with its proof.
type finding struct {
	feed.Finding
	proof []byte
}

// prove verifies a proof and acts on what it shows, if that is more than is known. With here set the proof
// was made by this node, which then publishes it.
func (r *Replica) prove(proof []byte, here bool) error {
	f, err := feed.VerifyProof(proof, r.cfg.Keys)
	if err != nil {
		return err
	}
	//bailiwick:check TestForkBomb/proofs
	if !r.matters(f) {
		return nil
	}
	first := r.learnFinding(f, proof)
	r.put(bucketProofs, f.Digest[:], proof)
	r.spareFindings(f)
	r.metrics.findings.WithLabelValues(f.Class).Inc()
	r.cfg.Log.Warn("finding", "accused", f.Accused.String(), "class", f.Class, "epoch", f.Epoch, "last_good", f.LastGood, "found_here", here)
	id := feed.FeedID{Origin: f.Accused, Epoch: f.Epoch}
	if h := r.holds[f.Accused]; f.Convicts() && !h.Held && f.Epoch >= h.Answered {
		r.setHold(f.Accused, hold{Held: true, Answered: h.Answered})
	}
	if c := r.chains[f.Accused]; c != nil {
		before := c.Head(f.Epoch)
		if c.FreezeAt(f.Epoch, f.LastGood) {
			r.rebuild[f.Accused] = true
		}
		r.forget(c)
		if c.Head(f.Epoch) != before {
			r.moved(c)
		}
	}
	for _, p := range r.peers {
		delete(p.claims, id)
	}
	if here && first {
		r.unsaid = append(r.unsaid, finding{f, proof})
	}
	done := finding{f, proof}
	r.after = append(r.after, func(failed error) {
		if failed == nil || passes(failed) { // containment acts first
			r.tellFinding(done)
		}
	})
	return nil
}

// matters reports whether a finding says more than is known: its feed ends before where
// it was thought to, or its origin is convicted at all.
func (r *Replica) matters(f feed.Finding) bool {
	end, known := r.ends[feed.FeedID{Origin: f.Accused, Epoch: f.Epoch}]
	if !known || f.LastGood < end {
		return true
	}
	if !f.Convicts() {
		return false
	}
	for _, old := range r.findings {
		if old.Accused == f.Accused && old.Epoch == f.Epoch && old.Convicts() {
			return false
		}
	}
	return true
}

// spareFindings forgets one finding of f's feed if there are too many now: one that
// neither ends the feed nor is the last to convict.
func (r *Replica) spareFindings(f feed.Finding) {
	end := r.ends[feed.FeedID{Origin: f.Accused, Epoch: f.Epoch}]
	count, convicting := 0, 0
	var spare []feed.Finding
	for _, old := range r.known() {
		if old.Accused != f.Accused || old.Epoch != f.Epoch {
			continue
		}
		count++
		if old.Convicts() {
			convicting++
		}
		if old.LastGood > end {
			spare = append(spare, old.Finding)
		}
	}
	if count <= maxFindings {
		return
	}
	for _, old := range spare {
		if !old.Convicts() || convicting > 1 {
			delete(r.findings, old.Digest)
			r.remove(bucketProofs, old.Digest[:])
			return
		}
	}
}

// known returns the findings in an order that is the same every time.
func (r *Replica) known() []finding {
	return slices.SortedFunc(maps.Values(r.findings), func(a, b finding) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
}

// learnFinding remembers a finding; it reports whether it moves the end of its
// feed, as a further proof of the same fork does not.
func (r *Replica) learnFinding(f feed.Finding, proof []byte) bool {
	r.findings[f.Digest] = finding{f, proof}
	id := feed.FeedID{Origin: f.Accused, Epoch: f.Epoch}
	end, known := r.ends[id]
	if known && end <= f.LastGood {
		return false
	}
	r.ends[id] = f.LastGood
	return true
}

func (r *Replica) tellFinding(f finding) {
	if r.cfg.OnFinding != nil {
		r.notices.add(func() { r.cfg.OnFinding(f.proof, f.Finding) })
	}
}

// publish puts the proofs made here into the node's own feed, ahead of other
// writes, as soon as it may write.
func (r *Replica) publish() {
	for _, f := range r.unsaid {
		op := feed.Op{
			Key: feed.KeyOf(r.cfg.Self, feed.KindEvidence, feed.EvidenceName(f.Digest)), Action: feed.Put,
			Value: f.proof, Scope: feed.ScopeRegion,
		}
		r.backlog = append([]*request{{ctx: context.Background(), ops: []feed.Op{op}}}, r.backlog...)
	}
	r.unsaid = nil
}

// setHold holds an origin or lets it go, durably.
func (r *Replica) setHold(origin spiffeid.ID, h hold) {
	r.holds[origin] = h
	r.put(bucketHolds, []byte(origin.String()), encode(h))
	if c := r.chains[origin]; c != nil {
		c.Hold(h.Held)
		r.rebuild[origin] = true
	}
}

// Freeze stops taking records of an origin, until Thaw. Its state stays readable
// as suspect. A convicting finding does this by itself.
func (r *Replica) Freeze(ctx context.Context, origin spiffeid.ID) error {
	return r.do(ctx, func() error {
		if h := r.holds[origin]; !h.Held {
			r.setHold(origin, hold{Held: true, Answered: h.Answered})
		}
		return nil
	})
}

// Thaw lets an origin go on. epoch is the first that its release allows, or zero
// when there is no finding against it: findings about earlier epochs, also ones
// that come late, no longer hold the origin. Feeds that a finding froze stay frozen.
func (r *Replica) Thaw(ctx context.Context, origin spiffeid.ID, epoch uint64) error {
	return r.do(ctx, func() error {
		if h := r.holds[origin]; h.Held || epoch > h.Answered {
			r.setHold(origin, hold{Answered: max(h.Answered, epoch)})
		}
		return nil
	})
}

// rewind notes that the own feed reaches further than this disk.
func (r *Replica) rewind(epoch, seq uint64) {
	if epoch <= r.rewound || r.writer != nil && epoch < r.writer.Feed().Epoch {
		return // known, or a lost end of an epoch that is over
	}
	r.rewound = epoch
	r.writer = nil
	r.put(bucketSelf, keyRewound, binary.BigEndian.AppendUint64(nil, epoch))
	r.cfg.Log.Error("the node's own feed is ahead of this disk", "epoch", epoch, "seq", seq)
	if r.cfg.OnRewound != nil {
		r.after = append(r.after, func(failed error) {
			if failed == nil || passes(failed) {
				r.notices.add(func() { r.cfg.OnRewound(epoch, seq) })
			}
		})
	}
}
