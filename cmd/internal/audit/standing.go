package audit

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// Standings tells who was accused, shut out, held and let back in, and by what, as the trails that
// are read have it: of one node by its SPIFFE ID, of one case by at least eight digits of it, or of
// all where about is empty. With most, only the newest so many.
func Standings(ctx context.Context, find Finder, dirs []string, about string, from, to time.Time, most int) ([]Answer, error) {
	accused := about
	if about != "" && !strings.Contains(about, ":") {
		ids, err := subjects(ctx, dirs, casefile.Question{Case: about})
		if err != nil {
			return nil, err
		}
		if accused = ids[len(ids)-1]; len(ids) == 1 {
			return some(nil, "case "+about)
		}
	}
	all, err := find(ctx, dirs, Filter{
		Kinds: []string{trail.PeerFinding.Name(), trail.PeerAccuse.Name(), trail.PeerStanding.Name(), trail.PeerRelease.Name(), trail.PeerAppeal.Name()}, From: from, To: to, Newest: most,
		Keep: func(f fact.Fact) bool { return accused == "" || concerns(f) == accused },
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b fact.Fact) int { return a.At.Compare(b.At) })
	what := "anybody's standing"
	if about != "" {
		what = "the standing of " + about
	}
	return some(lines(all), what)
}

// concerns is whose standing a leaf is about.
func concerns(f fact.Fact) string {
	for _, field := range []string{"accused", "id", "release", "revocation", "appeal", "rollback", "segments"} {
		if s := f.Field(field); s != "" {
			return s
		}
	}
	return ""
}
