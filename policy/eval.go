package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// evaluation is one input on its way through the levels.
type evaluation struct {
	in    *Input
	value ast.Value
	meter *meter
}

// verdict asks one level. A panic in it is its error and nobody else's.
func (e evaluation) verdict(ctx context.Context, l *active) (v Verdict) {
	v = Verdict{Level: l.Name, Revision: l.Revision, Outcome: Erroneous, stale: l.Stale}
	defer func() {
		if p := recover(); p != nil {
			v.Outcome, v.Rules, v.Reason, v.failed = Erroneous, nil, fmt.Sprintf("panic: %v", p), true
		}
	}()
	expired := l.expired(e.in)
	if expired && l.Required {
		v.Outcome, v.Reason = Expired, "expired at "+l.NotAfter.UTC().Format(time.RFC3339)
		return v
	}
	q := l.kinds[e.in.Kind]
	if q == nil {
		v.Outcome = Pass
		return v
	}
	if e.meter.again(); e.meter.why != "" {
		v.Reason = e.meter.why
		return v
	}
	t, err := q.query.ask(ctx, e.value, e.meter)
	switch {
	case e.meter.why != "": // what arrived may have been cut short
		v.Reason, v.failed = e.meter.why, e.meter.over
		return v
	case err != nil:
		v.Reason = err.Error()
		return v
	}
	if err := v.read(q, t, e.in.Kind); err != nil {
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

// read takes the answer [denies, allows, values] apart.
func (v *Verdict) read(q *question, t *ast.Term, kind Kind) error {
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
		switch kind {
		case StateAdmit:
			v.grants, err = values(grantRule, list.Elem(2), allows, readGrant)
		case Quarantine:
			v.thresholds, err = values(thresholdsRule, list.Elem(2), allows, readThresholds)
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
