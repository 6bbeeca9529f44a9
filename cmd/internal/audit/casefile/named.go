package casefile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// named checks that each entry is the one that a leaf names.
func (k *checker) named() error {
	for _, b := range k.c.Decisions {
		if err := k.decision(b); err != nil {
			return err
		}
		k.r.Decisions++
	}
	for _, b := range k.c.Policies {
		if err := k.policy(b); err != nil {
			return err
		}
		k.r.Policies++
	}
	for _, b := range k.c.Evidence {
		if err := k.evidence(b); err != nil {
			return err
		}
		k.r.Evidence++
	}
	return nil
}

// of yields the proven leaves of a kind.
func (k *checker) of(kind trail.Kind) iter.Seq2[trail.Proven, fact.Fact] {
	return func(yield func(trail.Proven, fact.Fact) bool) {
		for i, p := range k.said {
			if p.Kind == kind.Name() && !yield(p, k.r.Facts[i]) {
				return
			}
		}
	}
}

func (k *checker) decision(b []byte) error {
	e, err := decision.ParseEvent(b)
	if err != nil {
		return err
	}
	want := map[string]string{
		"id": e.DecisionID, "kind": string(e.Kind()), "level": e.Result.Level, "rule": e.Result.Rule, "revision": e.Result.Revision,
		"source": e.RequestedBy, "target": e.Result.Target,
	}
	if c, ok := e.Commitment(); ok {
		want["commitment"] = fmt.Sprintf("%x", c)
	} else {
		want["input"] = fmt.Sprintf("%x", sha256.Sum256(e.Input))
	}
	for p, f := range k.of(trail.DecisionDeny) {
		if f.Field("id") != e.DecisionID {
			continue
		}
		for name, is := range want {
			//bailiwick:check TestSwappedPayload/decision
			if f.Field(name) != is || e.Result.Allow {
				return &leafError{
					BadLeaf{p.Head.Origin, p.Index, p.At, "decision " + e.DecisionID + " and its input"},
					fmt.Errorf("%w: decision %s is not the one of the leaf: %s", ErrEntry, e.DecisionID, name),
				}
			}
		}
		return nil
	}
	return fmt.Errorf("%w: no leaf in it is of decision %s", ErrEntry, e.DecisionID)
}

func (k *checker) policy(b []byte) error {
	signed, content, err := bundle.Split(b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEntry, err)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(content))
	last := fmt.Errorf("%w: no leaf in it is of the policy with content %s", ErrEntry, digest)
	for p, f := range k.of(trail.PolicyActivate) {
		if f.Field("content") != digest {
			continue
		}
		v, err := bundle.Verify(signed, content, k.t.keys, p.At)
		switch {
		case err != nil:
			last = fmt.Errorf("policy of leaf %d of %s: %w", p.Index, p.Head.Origin, err)
		case f.Field("record") == hex.EncodeToString(v.Name[:]):
			return nil
		}
	}
	return last
}

// evidence checks a proof as any node would, and that a leaf tells of it.
func (k *checker) evidence(b []byte) error {
	p, err := k.proof(b)
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	for _, f := range k.of(trail.PeerFinding) {
		if f.Field("digest") == p.Digest && f.Field("accused") == p.Accused {
			k.r.Proofs = append(k.r.Proofs, p)
			return nil
		}
	}
	return fmt.Errorf("%w: no leaf in it is of the proof %.16s against %s", ErrEntry, p.Digest, p.Accused)
}

// epochKey verifies an epoch certificate under the trust records of the case file.
func (k *checker) epochKey(der []byte) (feed.EpochKey, error) {
	from, err := epoch.NotBefore(der)
	if err != nil {
		return feed.EpochKey{}, err
	}
	err = feed.ErrUncheckable
	for _, r := range k.trusted {
		c, verr := epoch.Verify(der, r.RecordRoots, r.TrustDomain, from)
		if verr == nil {
			return feed.EpochKey{Origin: c.ID, Epoch: c.Epoch, Key: c.Key, Class: c.Class, Attested: c.Attested(),
				NotBefore: c.NotBefore, NotAfter: c.NotAfter, Cert: der}, nil
		}
		err = verr
	}
	return feed.EpochKey{}, err
}

// record verifies a trust record as of the time it began.
func (k *checker) record(raw []byte) (trust.Record, error) {
	r, _, err := trust.Read(raw)
	if err != nil {
		return r, err
	}
	return trust.Verify(raw, k.t.keys, k.t.Threshold, r.NotBefore)
}

// complete judges whether the leaves of the span are all there: one unbroken run in
// each trail, from a leaf before the span, or the first, to one after it, or the last.
func (k *checker) complete() Verdict {
	q := k.c.Manifest.Question
	if !q.Span() {
		return Verdict{Good: true, Why: "leaves were chosen, so what was left out is not to be seen; ask for a span (--from, --to) to see that"}
	}
	inside := 0
	for n, head := range k.heads {
		run := slices.DeleteFunc(slices.Clone(k.said), func(p trail.Proven) bool { return p.Head.Origin != head.Origin })
		if len(run) > 1 && run[1].Index > 1 {
			run = run[1:] // after the genesis, which is always here
		}
		first, last := run[0], run[len(run)-1]
		for i, p := range run {
			if p.Index != first.Index+uint64(i) {
				return bad(fmt.Errorf("%w: leaf %d of %s", ErrMissing, first.Index+uint64(i), head.Origin))
			}
			if q.holds(p.At) {
				inside++
			}
		}
		if first.Index > 1 && !first.At.Before(q.From) {
			return bad(fmt.Errorf("%w: leaf %d of %s", ErrMissing, first.Index-1, head.Origin))
		}
		if last.Index+1 < k.heads[n].Size && last.At.Before(q.To) {
			return bad(fmt.Errorf("%w: leaf %d of %s", ErrMissing, last.Index+1, head.Origin))
		}
	}
	return Verdict{Good: true, Why: fmt.Sprintf("all %d leaves of the span are here, and those next to it", inside)}
}
