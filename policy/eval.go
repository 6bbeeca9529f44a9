package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// evaluation is one input on its way through the levels.
type evaluation struct {
	in     *Input
	value  ast.Value
	cancel topdown.Cancel
}

// asTerm keeps OPA from converting results to Go values nobody needs.
var asTerm = rego.EvalGenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil })

// verdict asks one level. A panic in it is its error and nobody else's.
func (e evaluation) verdict(ctx context.Context, l *active) (v Verdict) {
	v = Verdict{Level: l.Name, Revision: l.Revision, Outcome: Erroneous}
	defer func() {
		if p := recover(); p != nil {
			v.Outcome, v.Rules, v.Reason = Erroneous, nil, fmt.Sprintf("panic: %v", p)
		}
	}()
	expired := !l.NotAfter.IsZero() && time.Unix(e.in.Time.Unix, 0).After(l.NotAfter)
	if expired && l.Required {
		v.Outcome, v.Reason = Expired, "expired at "+l.NotAfter.UTC().Format(time.RFC3339)
		return v
	}
	q := l.kinds[e.in.Kind]
	if q == nil {
		v.Outcome = Pass
		return v
	}
	if e.cancel.Cancelled() || ctx.Err() != nil {
		v.Reason = "the deadline passed"
		return v
	}
	rs, err := q.query.Eval(ctx, rego.EvalParsedInput(e.value), rego.EvalExternalCancel(e.cancel), asTerm)
	switch {
	case topdown.IsCancel(err) || (err == nil && e.cancel.Cancelled()):
		// An answer that arrives with the deadline may have been cut short by it.
		v.Reason = "the deadline passed"
		return v
	case err != nil:
		v.Reason = err.Error()
		return v
	}
	if err := v.read(q, rs, e.in.Kind); err != nil {
		v.Outcome, v.Rules, v.Reason = Erroneous, nil, err.Error()
		return v
	}
	v.covered = !expired && l.Delegation.Covers(e.in)
	if v.Outcome == Allowed && !v.covered {
		v.Reason = "it is outside the level's delegation"
		if expired {
			v.Reason = "it expired at " + l.NotAfter.UTC().Format(time.RFC3339)
		}
	}
	return v
}

// read takes the answer [denies, allows, grants] apart.
func (v *Verdict) read(q *question, rs rego.ResultSet, kind Kind) error {
	if len(rs) != 1 {
		return fmt.Errorf("the query gave %d answers, want 1", len(rs))
	}
	t, _ := rs[0].Bindings["v"].(*ast.Term)
	if t == nil {
		return fmt.Errorf("the query gave no answer")
	}
	list, ok := t.Value.(*ast.Array)
	if !ok || list.Len() != 3 {
		return fmt.Errorf("the query gave %v", t)
	}
	denies, err := q.hold(list.Elem(0))
	if err != nil {
		return err
	}
	allows, err := q.hold(list.Elem(1))
	if err != nil {
		return err
	}
	switch {
	case len(denies) > 0:
		v.Outcome, v.Rules = Denied, denies
	case len(allows) > 0:
		v.Outcome, v.Rules = Allowed, allows
		if kind == StateAdmit {
			v.grants, err = grants(list.Elem(2), allows)
		}
	default:
		v.Outcome = Pass
	}
	return err
}

// hold turns a set of ids into the rules that carry them.
func (q *question) hold(t *ast.Term) ([]*Rule, error) {
	set, ok := t.Value.(ast.Set)
	if !ok {
		return nil, fmt.Errorf("got %v, want a set of ids", t)
	}
	if set.Len() == 0 {
		return nil, nil
	}
	rules := make([]*Rule, 0, set.Len())
	for _, id := range set.Slice() {
		s, _ := id.Value.(ast.String)
		r := q.rules[string(s)]
		if r == nil {
			return nil, fmt.Errorf("got the id %v, which no rule has", id)
		}
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b *Rule) int { return cmp.Compare(a.ID, b.ID) })
	return rules, nil
}

// grants reads the grant of every allow that held.
func grants(t *ast.Term, allows []*Rule) (map[string]*Grant, error) {
	obj, ok := t.Value.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("got %v, want the grants by id", t)
	}
	out := make(map[string]*Grant, len(allows))
	for _, r := range allows {
		g := obj.Get(ast.StringTerm(r.ID))
		if g == nil {
			return nil, fmt.Errorf("allow %s holds and grant[%q] does not", r.ID, r.ID)
		}
		fields, ok := g.Value.(ast.Object)
		if !ok || fields.Len() != 4 {
			return nil, fmt.Errorf("grant[%q] must have prefix, scope, max_bytes and rate", r.ID)
		}
		grant := &Grant{ID: r.ID}
		var errs [4]error
		grant.Prefix, errs[0] = text(fields, "prefix")
		grant.Scope, errs[1] = text(fields, "scope")
		grant.Rate, errs[2] = number(fields, "rate")
		size, err := number(fields, "max_bytes")
		grant.MaxBytes, errs[3] = int(size), err
		if i := slices.IndexFunc(errs[:], func(e error) bool { return e != nil }); i >= 0 {
			return nil, fmt.Errorf("grant[%q]: %w", r.ID, errs[i])
		}
		if grant.Prefix == "" || grant.Prefix == "/" || !slices.Contains(scopes, grant.Scope) {
			return nil, fmt.Errorf("grant[%q]: prefix %q or scope %q is not valid", r.ID, grant.Prefix, grant.Scope)
		}
		out[r.ID] = grant
	}
	return out, nil
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
