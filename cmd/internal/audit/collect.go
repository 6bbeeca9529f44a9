package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// MaxLeaves bounds one case file.
const MaxLeaves = 20_000

var (
	// ErrNoLeaf means that no leaf of the trails answers the question.
	ErrNoLeaf = errors.New("no leaf of these trails is about that")

	// ErrTooMany means that more than MaxLeaves leaves answer the question: ask for
	// less at once.
	ErrTooMany = errors.New("too many leaves for one case file")
)

// minCase is how many digits of a case's ID tell it from others.
const minCase = 8

// Collect makes a case of the trails in folders <state>/trail, with what stands beside them:
// decisions, trust records, rosters and keys of witnesses. Policies, evidence and other trust
// records are the caller's to add. Errors wrap ErrNoLeaf, ErrTooMany,
// trail.ErrNoTrail or what else package trail reports.
func Collect(ctx context.Context, dirs []string, q casefile.Question) (casefile.Case, error) {
	c := casefile.Case{Manifest: casefile.Manifest{Question: q}}
	about, err := subjects(ctx, dirs, q)
	if err != nil {
		return c, err
	}
	total, answers := 0, 0
	for _, dir := range dirs {
		err := EachEpoch(dir, func(s *trail.Snapshot) error {
			g, err := s.Genesis()
			if err != nil {
				return err
			}
			chosen, err := choose(ctx, s, q, about)
			if err != nil || len(chosen.indexes) == 0 {
				return err
			}
			answers += chosen.answers
			if total += len(chosen.indexes); total > MaxLeaves {
				return fmt.Errorf("%w: more than %d", ErrTooMany, MaxLeaves)
			}
			leaves, err := prove(s, chosen.indexes)
			if err != nil {
				return err
			}
			seen, err := earlier(s, chosen.indexes)
			if err != nil {
				return err
			}
			c.Leaves, c.Seen = append(c.Leaves, leaves), append(c.Seen, seen)
			c.Manifest.Trails = append(c.Manifest.Trails, casefile.Origin{Origin: s.Head().Origin, Verifier: g.Verifier})
			events, err := recorded(dir, chosen.denials)
			c.Decisions = append(c.Decisions, events...)
			return err
		})
		if err != nil {
			return c, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if err := errors.Join(addWitnesses(&c, dirs), addTrust(&c, dirs)); err != nil {
		return c, err
	}
	if answers == 0 && !q.Span() || len(c.Leaves) == 0 {
		return c, fmt.Errorf("%w: %s", ErrNoLeaf, q)
	}
	return c, nil
}

// EachEpoch calls f with every epoch of the trail in a folder, oldest first.
func EachEpoch(dir string, f func(*trail.Snapshot) error) error {
	epochs, err := trail.Epochs(dir)
	if err != nil {
		return err
	}
	if len(epochs) == 0 {
		return trail.ErrNoTrail
	}
	for _, e := range epochs {
		s, err := trail.OpenSnapshot(trail.EpochDir(dir, e))
		if err != nil {
			return err
		}
		if err := f(s); err != nil {
			return err
		}
	}
	return nil
}

// subjects is what leaves must name to belong to the question. The ID of a quarantine
// case stands for the accused as well.
func subjects(ctx context.Context, dirs []string, q casefile.Question) ([]string, error) {
	if q.Subject != "" {
		return []string{q.Subject}, nil
	}
	if q.Case == "" {
		return nil, nil
	}
	if len(q.Case) < minCase {
		return nil, fmt.Errorf("%w: case %q: give at least %d digits", ErrNoLeaf, q.Case, minCase)
	}
	out := []string{q.Case}
	for _, dir := range dirs {
		err := EachEpoch(dir, func(s *trail.Snapshot) error {
			for l, err := range s.Leaves(ctx, 0) {
				if err != nil {
					return err
				}
				if l.Kind != trail.PeerFinding.Name() {
					continue
				}
				f := fact.Read(s.Head().Origin, l)
				if accused := f.Field("accused"); f.About(q.Case) && !slices.Contains(out, accused) {
					out = append(out, accused)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return out, nil
}

// choice is what was chosen from one trail.
type choice struct {
	indexes []uint64 // ascending, the genesis first
	answers int      // of them that answer the question; the others say what was in force
	denials map[string]bool
}

// choose goes once over a trail.
func choose(ctx context.Context, s *trail.Snapshot, q casefile.Question, about []string) (choice, error) {
	c := choice{denials: map[string]bool{}}
	inUse := map[string]uint64{} // newest leaf of each sort that says what is in force
	var before *uint64           // the leaf before the span
	open := false                // the leaf before is in the span
	for l, err := range s.Leaves(ctx, 0) {
		if err != nil {
			return c, err
		}
		f := fact.Read(s.Head().Origin, l)
		in := q.Span() && !l.At.Before(q.From) && l.At.Before(q.To)
		if !q.Span() {
			in = belongs(f, q, about)
		}
		switch {
		case in && q.Span() && len(c.indexes) == 0 && before != nil:
			c.indexes = append(c.indexes, *before, l.Index)
		case in:
			c.indexes = append(c.indexes, l.Index)
		case q.Span() && (open || len(c.indexes) == 0 && !l.At.Before(q.To)):
			if len(c.indexes) == 0 && before != nil {
				c.indexes = append(c.indexes, *before)
			}
			c.indexes = append(c.indexes, l.Index) // the one after shows that nothing is between
		}
		if in {
			c.answers++
			if l.Kind == trail.DecisionDeny.Name() {
				c.denials[f.Field("id")] = true
			}
			if !q.Span() {
				for _, i := range inUse {
					c.indexes = append(c.indexes, i)
				}
				clear(inUse)
			}
		} else if key := inForce(f); key != "" {
			inUse[key] = l.Index
		}
		open = in
		before = &l.Index
		if len(c.indexes) > MaxLeaves {
			return c, fmt.Errorf("%w: more than %d", ErrTooMany, MaxLeaves)
		}
	}
	if q.Span() {
		c.fill()
		if len(c.indexes) == 0 && before != nil { // everything is older
			c.indexes = append(c.indexes, *before)
		}
	}
	if !q.Span() && c.answers == 0 {
		return choice{}, nil
	}
	c.indexes = append(c.indexes, 0)
	slices.Sort(c.indexes)
	c.indexes = slices.Compact(c.indexes)
	return c, nil
}

// fill closes a span that a clock set back has broken.
func (c *choice) fill() {
	if len(c.indexes) == 0 {
		return
	}
	lo, hi := slices.Min(c.indexes), slices.Max(c.indexes)
	c.indexes = c.indexes[:0]
	for i := lo; i <= hi && len(c.indexes) <= MaxLeaves; i++ {
		c.indexes = append(c.indexes, i)
	}
}

// belongs reports whether a leaf answers the question: it names the subject, or, of the
// accused of a case, it tells of standing.
func belongs(f fact.Fact, q casefile.Question, about []string) bool {
	for i, name := range about {
		if !f.About(name) {
			continue
		}
		if q.Case == "" || i == 0 || f.Kind == trail.PeerFinding.Name() || f.Kind == trail.PeerStanding.Name() || f.Kind == trail.PeerRelease.Name() || f.Kind == trail.PeerAppeal.Name() {
			return true
		}
	}
	return false
}

// inForce names what a leaf puts in force, until the next of the same name does.
func inForce(f fact.Fact) string {
	switch f.Kind {
	case trail.PolicyActivate.Name():
		return f.Kind + f.Field("level") + f.Field("scope")
	case trail.IdentityTrust.Name():
		return f.Kind + f.Field("trust_domain")
	case trail.IdentitySVID.Name(), trail.IdentityEpoch.Name():
		return f.Kind
	}
	return ""
}

func prove(s *trail.Snapshot, indexes []uint64) (out []casefile.Leaf, err error) {
	for _, i := range indexes {
		raw, err := s.Raw(i)
		if err != nil {
			return nil, err
		}
		p, err := s.Prove(i)
		if err != nil {
			return nil, err
		}
		out = append(out, casefile.Leaf{Index: i, Raw: raw, Proof: p})
	}
	return out, nil
}

// recorded finds the events of denials in the segments beside a trail. One that is no
// longer kept there, or whose payload was erased or cannot be opened here, is left out: its
// leaf remains.
func recorded(dir string, ids map[string]bool) (out [][]byte, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	for e, err := range decision.Read(filepath.Join(dir, "..", decision.DirName)) {
		if errors.Is(err, decision.ErrNothing) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if !ids[e.DecisionID] || e.Erasure != nil || e.Sealed != nil {
			continue
		}
		b, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
