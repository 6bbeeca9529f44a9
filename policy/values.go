package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Scopes are what a grant's scope may be, in the order in which they widen.
var Scopes = []string{"zone", "region", "global"}

// valueFields are the fields of values. A grant must have all but kinds, thresholds may have each.
var valueFields = map[string][]string{
	grantRule:      {"prefix", "scope", "bytes", "rate", "kinds"},
	thresholdsRule: {"hold_seconds", "hold_max_seconds", "mild_faults", "cap_percent", "cap_proven_percent", "observers", "quorum_percent", "accusations", "suspect_open"},
}

// values reads the value of every allow that held.
func values[V any](rule string, t *ast.Term, allows []*Rule, read func(id string, o ast.Object) (V, error)) ([]V, error) {
	obj, ok := t.Value.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("got %v, want each %s by id", t, rule)
	}
	out := make([]V, 0, len(allows))
	for _, r := range allows {
		g := obj.Get(ast.StringTerm(r.ID))
		if g == nil {
			return nil, fmt.Errorf("allow %s holds and %s[%q] does not", r.ID, rule, r.ID)
		}
		o, ok := g.Value.(ast.Object)
		if !ok {
			return nil, fmt.Errorf("%s[%q]: want an object", rule, r.ID)
		}
		err := knownFields(o, valueFields[rule])
		var v V
		if err == nil {
			v, err = read(r.ID, o)
		}
		if err != nil {
			return nil, fmt.Errorf("%s[%q]: %w", rule, r.ID, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func readGrant(id string, o ast.Object) (g Grant, err error) {
	g.ID = id
	var errs [4]error
	var size float64
	g.Prefix, errs[0] = text(o, "prefix")
	g.Scope, errs[1] = text(o, "scope")
	g.Rate, errs[2] = number(o, "rate")
	size, errs[3] = number(o, "bytes")
	if i := slices.IndexFunc(errs[:], func(e error) bool { return e != nil }); i >= 0 {
		return g, errs[i]
	}
	g.Bytes = int(size)
	if len(g.Prefix) < 2 || g.Prefix[0] != '/' {
		return g, fmt.Errorf("prefix %q: want a path below /", g.Prefix)
	}
	if !slices.Contains(Scopes, g.Scope) {
		return g, fmt.Errorf("scope %q: want one of %v", g.Scope, Scopes)
	}
	if kinds := o.Get(ast.StringTerm("kinds")); kinds != nil {
		g.Kinds, err = texts(kinds, "kinds")
	}
	return g, err
}

// readThresholds reads whole numbers, and the kinds that are open; what is absent stays 0.
func readThresholds(id string, o ast.Object) (Thresholds, error) {
	t := Thresholds{ID: id}
	for i, into := range []*int{&t.HoldSeconds, &t.HoldMaxSeconds, &t.MildFaults, &t.CapPercent, &t.CapProvenPercent, &t.Observers, &t.QuorumPercent, &t.Accusations} {
		name := valueFields[thresholdsRule][i]
		if o.Get(ast.StringTerm(name)) == nil {
			continue
		}
		n, err := number(o, name)
		if err == nil && n != float64(int(n)) {
			err = fmt.Errorf("%s must be a whole number", name)
		}
		if err != nil {
			return Thresholds{}, err
		}
		*into = int(n)
	}
	if kinds := o.Get(ast.StringTerm("suspect_open")); kinds != nil {
		var err error
		if t.SuspectOpen, err = texts(kinds, "suspect_open"); err != nil {
			return Thresholds{}, err
		}
	}
	return t, nil
}

// knownFields refuses a bound that is misspelt, or of another version: it would be off.
func knownFields(o ast.Object, known []string) (err error) {
	o.Foreach(func(k, _ *ast.Term) {
		if s, ok := k.Value.(ast.String); !ok || !slices.Contains(known, string(s)) {
			err = fmt.Errorf("%v is none of its fields: %s", k, strings.Join(known, ", "))
		}
	})
	return err
}

// texts reads a list or set of 1 to MaxList strings.
func texts(t *ast.Term, what string) (out []string, err error) {
	add := func(e *ast.Term) {
		s, ok := e.Value.(ast.String)
		if !ok || s == "" {
			err = fmt.Errorf("%s must be strings", what)
		}
		out = append(out, string(s))
	}
	switch list := t.Value.(type) {
	case *ast.Array:
		list.Foreach(add)
	case ast.Set:
		list.Foreach(add)
	}
	if err == nil && (len(out) == 0 || len(out) > MaxList) {
		err = fmt.Errorf("%s must be a list of 1 to %d strings", what, MaxList)
	}
	slices.Sort(out)
	return out, err
}

func text(o ast.Object, key string) (string, error) {
	if t := o.Get(ast.StringTerm(key)); t != nil {
		if s, ok := t.Value.(ast.String); ok {
			return string(s), nil
		}
	}
	return "", fmt.Errorf("%s must be a string", key)
}

func number(o ast.Object, key string) (float64, error) {
	if t := o.Get(ast.StringTerm(key)); t != nil {
		if n, ok := t.Value.(ast.Number); ok {
			if f, err := strconv.ParseFloat(n.String(), 64); err == nil && f > 0 && f <= 1<<30 {
				return f, nil
			}
		}
	}
	return 0, fmt.Errorf("%s must be a number above 0 and at most 2^30", key)
}
