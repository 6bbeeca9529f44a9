package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// Filter chooses facts. What is empty chooses all.
type Filter struct {
	Kinds    []string // kinds, or the part before a dot: "peer" is every peer.* kind
	Subject  string   // what they name; see fact.Fact.About
	Text     string   // what stands in their line, in any case
	From, To time.Time
	Newest   int                  // only so many of those that pass, the newest; 0: all
	Keep     func(fact.Fact) bool // nil: all that pass otherwise
	// FirstDenials chooses, of denials with the same target, generation, caller and rule, only the first
	// of each trail.
	FirstDenials bool
}

// Passes reports whether a fact is chosen.
func (f Filter) Passes(x fact.Fact) bool {
	if len(f.Kinds) > 0 && !slices.ContainsFunc(f.Kinds, func(k string) bool { return k == x.Kind || strings.HasPrefix(x.Kind, k+".") }) {
		return false
	}
	return (f.Subject == "" || x.About(f.Subject)) &&
		(f.Text == "" || strings.Contains(strings.ToLower(x.Text), strings.ToLower(f.Text))) &&
		(f.From.IsZero() || !x.At.Before(f.From)) && (f.To.IsZero() || x.At.Before(f.To)) &&
		(f.Keep == nil || f.Keep(x))
}

// Denial is what a denial has in common with others, for Filter.FirstDenials; empty: it is none.
func Denial(x fact.Fact) string {
	if x.Kind != trail.DecisionDeny.Name() {
		return ""
	}
	return strings.Join([]string{x.Field("target"), x.Field("revision"), x.Field("source"), x.Field("rule")}, "\x00")
}

// Choose puts facts in the order of the nodes' clocks and leaves those that a filter wants of many. They
// are in the order of their trails.
func (f Filter) Choose(all []fact.Fact) []fact.Fact {
	if f.FirstDenials {
		seen := map[[2]string]bool{}
		all = slices.DeleteFunc(all, func(x fact.Fact) bool {
			key := [2]string{x.Origin, Denial(x)}
			again := seen[key] && key[1] != ""
			seen[key] = true
			return again
		})
	}
	slices.SortStableFunc(all, func(a, b fact.Fact) int { return a.At.Compare(b.At) })
	if f.Newest > 0 {
		all = all[max(0, len(all)-f.Newest):]
	}
	return all
}

// Scan reads every leaf of the trails in folders <state>/trail and returns those that pass, in
// the order of the nodes' clocks. Nothing is verified. Errors wrap trail.ErrNoTrail or what else
// package trail reports, or ErrTooMany.
func Scan(ctx context.Context, dirs []string, f Filter) (out []fact.Fact, err error) {
	for _, dir := range dirs {
		err := EachEpoch(dir, func(s *trail.Snapshot) error {
			for l, err := range s.Leaves(ctx, 0) {
				if err != nil {
					return err
				}
				if x := fact.Read(s.Head().Origin, l); f.Passes(x) {
					out = append(out, x)
				}
			}
			if len(out) > 10*MaxLeaves {
				return fmt.Errorf("%w: %d", ErrTooMany, len(out))
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return f.Choose(out), nil
}

// Follower yields the leaves of a trail as they come under its head, also over a change of
// epoch. It is for one goroutine.
type Follower struct {
	dir  string
	next map[uint64]uint64 // by epoch
}

// Follow begins with the last n leaves of the newest epoch in a folder <state>/trail.
func Follow(dir string, n uint64) (*Follower, error) {
	f := &Follower{dir: dir, next: map[uint64]uint64{}}
	epochs, err := trail.Epochs(dir)
	if err != nil {
		return nil, err
	}
	if len(epochs) == 0 {
		return nil, fmt.Errorf("%w: %s", trail.ErrNoTrail, dir)
	}
	for i, e := range epochs {
		s, err := trail.OpenSnapshot(trail.EpochDir(dir, e))
		if err != nil {
			return nil, err
		}
		f.next[e] = s.Head().Size
		if i == len(epochs)-1 {
			f.next[e] -= min(n, s.Head().Size)
		}
	}
	return f, nil
}

// More returns what has come since. An epoch whose first head is not signed yet has nothing.
func (f *Follower) More(ctx context.Context) (out []fact.Fact, err error) {
	epochs, err := trail.Epochs(f.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range epochs {
		s, err := trail.OpenSnapshot(trail.EpochDir(f.dir, e))
		if errors.Is(err, trail.ErrNoTrail) || errors.Is(err, trail.ErrCheckpoint) && f.next[e] == 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
		for l, err := range s.Leaves(ctx, f.next[e]) {
			if err != nil {
				return nil, err
			}
			out = append(out, fact.Read(s.Head().Origin, l))
		}
		f.next[e] = max(f.next[e], s.Head().Size)
	}
	return out, nil
}
