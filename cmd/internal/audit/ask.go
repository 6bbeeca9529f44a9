package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Finder finds the leaves of trails that pass a filter: Scan, or the Find of package index, which
// must find the same.
type Finder func(ctx context.Context, dirs []string, f Filter) ([]fact.Fact, error)

// Place is a leaf that proves part of an answer.
type Place struct {
	Origin string `json:"origin"`
	Index  uint64 `json:"index"`
	Kind   string `json:"kind"`
}

// Answer is one line of an answer, with the leaves that prove it: never none.
type Answer struct {
	At     time.Time `json:"at"`
	Text   string    `json:"text"`
	Leaves []Place   `json:"leaves"`
}

func place(f fact.Fact) Place { return Place{f.Origin, f.Index, f.Kind} }

func lines(all []fact.Fact) (out []Answer) {
	for _, f := range all {
		out = append(out, Answer{f.At, f.Text, []Place{place(f)}})
	}
	return out
}

func some(out []Answer, what string) ([]Answer, error) {
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoLeaf, what)
	}
	return out, nil
}

// Decided tells which rule, of which policy, made a decision: by the first digits of its ID. An
// allow is found where its event is still kept.
func Decided(ctx context.Context, find Finder, dirs []string, id string) (out []Answer, err error) {
	if len(id) < minCase || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%w: decision %q: give at least %d hex digits", ErrNoLeaf, id, minCase)
	}
	for _, dir := range dirs {
		c := chain{ctx: ctx, find: find, dir: dir}
		denied, err := find(ctx, []string{dir}, Filter{Kinds: []string{"decision.deny"}, Subject: id})
		if err != nil {
			return nil, err
		}
		err = events(dir, func(e decision.Event) {
			if !strings.HasPrefix(e.DecisionID, id) {
				return
			}
			if leaf := c.segmentOf(e); leaf != nil {
				out = append(out, Answer{e.Timestamp, tell(e), append([]Place{place(*leaf)}, c.inForceAt(e.Result.Revision, e.Timestamp)...)})
			}
		})
		if err != nil {
			return nil, err
		}
		for _, f := range denied {
			if strings.HasPrefix(f.Field("id"), id) {
				out = append(out, Answer{f.At, f.Text, append([]Place{place(f)}, c.inForceAt(f.Field("revision"), f.At)...)})
			}
		}
		if c.err != nil {
			return nil, c.err
		}
	}
	return some(out, "decision "+id)
}

func tell(e decision.Event) string {
	verb := "denied"
	if e.Result.Allow {
		verb = "allowed"
	}
	s := fmt.Sprintf("%s %s", verb, e.Kind())
	if e.RequestedBy != "" {
		s += " of " + e.RequestedBy
	}
	if e.Result.Target != "" {
		s += " to " + e.Result.Target
	}
	s += ": rule " + e.Result.Rule
	if e.Result.Level != "" {
		s += " of the " + e.Result.Level + " policy"
	}
	if e.Result.File != "" {
		s += fmt.Sprintf(" (%s:%d)", e.Result.File, e.Result.Line)
	}
	s += ", generation " + e.Result.Revision + ", decision " + e.DecisionID
	if e.Erasure != nil {
		s += "; who asked and what for was " + e.Erasure.String()
	}
	return s
}

// events reads the decisions beside a trail; none is no error.
func events(dir string, f func(decision.Event)) error {
	for e, err := range decision.Read(filepath.Join(dir, "..", decision.DirName)) {
		if errors.Is(err, decision.ErrNothing) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		f(e)
	}
	return nil
}

// Claims tells what a node said of itself in a span: by its own trail where that is among dirs,
// and by those who took or refused its records. With most, only the newest so many.
func Claims(ctx context.Context, find Finder, dirs []string, node string, from, to time.Time, most int) ([]Answer, error) {
	all, err := find(ctx, dirs, Filter{
		Kinds: []string{"state.in", "state.refuse", "genesis"}, Subject: node, From: from, To: to, Newest: most,
		Keep: func(f fact.Fact) bool { return f.Field("origin") == node || f.Field("node") == node },
	})
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if !whose(dir, node) {
			continue
		}
		own, err := find(ctx, []string{dir}, Filter{Kinds: []string{"state.out"}, From: from, To: to, Newest: most})
		if err != nil {
			return nil, err
		}
		all = append(all, own...)
	}
	return some(lines(Filter{Newest: most}.Choose(all)), node)
}

// whose reports whether a folder holds the trail of a node.
func whose(dir, node string) bool {
	is := false
	_ = EachEpoch(dir, func(s *trail.Snapshot) error { // whoever reads it next meets the error
		g, err := s.Genesis()
		is = is || err == nil && g.Node == node
		return err
	})
	return is
}

// changing are the kinds that change what holds in a region.
var changing = []string{"authority", "policy", "peer", "admin", "identity.trust", "issuer.refuse"}

// Changed tells what changed in a region, by its label or trust domain, in a span: authority,
// policy, standing, trust, and what administrators did. With most, only the newest so many.
func Changed(ctx context.Context, find Finder, dirs []string, region string, from, to time.Time, most int) ([]Answer, error) {
	named, err := find(ctx, dirs, Filter{Kinds: []string{trail.IdentityTrust.Name()}, To: to, Keep: func(f fact.Fact) bool { return f.Field("region") == region }})
	if err != nil {
		return nil, err
	}
	domain := region
	for _, f := range named {
		domain = f.Field("trust_domain")
	}
	all, err := find(ctx, dirs, Filter{
		Kinds: changing, From: from, To: to, Newest: most,
		Keep: func(f fact.Fact) bool { return strings.HasPrefix(f.Origin, domain+"/") && f.Field("1") != "beacon" },
	})
	if err != nil {
		return nil, err
	}
	return some(lines(all), "region "+region)
}

// WhoCould tells who talked to a service under the policy that was in force at a time, and who was
// refused: the first allow of each caller and rule in a generation is always kept whole, and so is
// every denial. A caller that never asked is not in it; what policy would say of that one,
// bailiwick policy reach computes.
func WhoCould(ctx context.Context, find Finder, dirs []string, service string, at time.Time) (out []Answer, err error) {
	for _, dir := range dirs {
		c := chain{ctx: ctx, find: find, dir: dir}
		revision := c.revisionAt(at)
		denied, err := find(ctx, []string{dir}, Filter{Kinds: []string{"decision.deny"}, Subject: service, To: at.Add(time.Millisecond), FirstDenials: true})
		if err != nil {
			return nil, err
		}
		seen, lost := map[string]bool{}, gone{}
		err = events(dir, func(e decision.Event) {
			if e.Result.Revision == revision && !e.Timestamp.After(at) && (e.Kind() == policy.Connect || e.Kind() == policy.HTTPRequest) {
				lost.add(e)
			}
			if e.Result.Target != service || e.Result.Revision != revision || e.Timestamp.After(at) || e.Kind() != policy.Connect && e.Kind() != policy.HTTPRequest {
				return
			}
			key := fmt.Sprint(e.RequestedBy, e.Result.Allow, e.Result.Rule)
			if seen[key] {
				return
			}
			leaf := c.segmentOf(e)
			if leaf == nil {
				return
			}
			seen[key] = true
			out = append(out, Answer{e.Timestamp, tell(e), append([]Place{place(*leaf)}, c.inForceAt(revision, at)...)})
		})
		if err != nil {
			return nil, err
		}
		for _, f := range denied {
			if key := fmt.Sprint(f.Field("source"), false, f.Field("rule")); f.Field("target") == service && f.Field("revision") == revision && !seen[key] {
				seen[key] = true
				out = append(out, Answer{f.At, f.Text, append([]Place{place(f)}, c.inForceAt(revision, at)...)})
			}
		}
		if out, err = lost.tell(ctx, find, dir, out); err != nil {
			return nil, err
		}
		if c.err != nil {
			return nil, c.err
		}
	}
	return some(out, fmt.Sprintf("service %s at %s", service, at.UTC().Format(time.RFC3339)))
}

// Held tells to whom state of a data class went, or was refused to: decisions of the kind
// replicate whose input names the class. Events that masking or the disk's bound took are not in
// it.
func Held(ctx context.Context, find Finder, dirs []string, class string, from, to time.Time) (out []Answer, err error) {
	for _, dir := range dirs {
		c := chain{ctx: ctx, find: find, dir: dir}
		lost := gone{}
		err = events(dir, func(e decision.Event) {
			if e.Kind() != policy.Replicate || e.Timestamp.Before(from) || !e.Timestamp.Before(to) {
				return
			}
			if lost.add(e); !names(e.Input, class) {
				return
			}
			if leaf := c.segmentOf(e); leaf != nil {
				out = append(out, Answer{e.Timestamp, tell(e), append([]Place{place(*leaf)}, c.inForceAt(e.Result.Revision, e.Timestamp)...)})
			}
		})
		if err := errors.Join(err, c.err); err != nil {
			return nil, err
		}
		if out, err = lost.tell(ctx, find, dir, out); err != nil {
			return nil, err
		}
	}
	return some(out, "data class "+class)
}

// names reports whether an input is about a data class.
func names(input json.RawMessage, class string) bool {
	var in struct {
		Resource struct {
			Classes []string `json:"classes"`
		} `json:"resource"`
	}
	return json.Unmarshal(input, &in) == nil && slices.Contains(in.Resource.Classes, class)
}

// Prove checks that each leaf of an answer is under the signed head of its trail, by the key that
// its genesis names. What the key is worth is for trail verify. Errors wrap trail.ErrProof or what
// else package trail reports.
func Prove(ctx context.Context, dirs []string, answers []Answer) error {
	need := map[string]map[uint64]bool{}
	for _, a := range answers {
		for _, p := range a.Leaves {
			if need[p.Origin] == nil {
				need[p.Origin] = map[uint64]bool{}
			}
			need[p.Origin][p.Index] = true
		}
	}
	for _, dir := range dirs {
		err := EachEpoch(dir, func(s *trail.Snapshot) error {
			if len(need[s.Head().Origin]) == 0 {
				return nil
			}
			g, err := s.Genesis()
			if err != nil {
				return err
			}
			head, err := trail.OpenCheckpoint(s.Head().Raw, g.Verifier)
			if err != nil {
				return err
			}
			if head.Size != s.Head().Size || head.Root != s.Head().Root {
				return fmt.Errorf("%w: another head was proven against", trail.ErrProof)
			}
			for _, index := range slices.Sorted(maps.Keys(need[s.Head().Origin])) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if _, err := s.Prove(index); err != nil { // to that head's root
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}
