package policy

import (
	"fmt"
	"slices"
	"strings"
)

// ControlCalls are the names of Action that keep a node repairable: a connect with one of them and
// no Service is allowed unless the global level denies it, so that a bad policy cannot cut off the
// calls that would replace it. The caller still authenticates the peer and checks its standing.
var ControlCalls = []string{"enrol", "renew", "trust_sync", "policy_sync", "standing_sync", "appeal"}

func isControl(in *Input) bool {
	return in.Kind == Connect && in.Service == nil && in.Action != nil && slices.Contains(ControlCalls, in.Action.Name)
}

// combine fills d in from what the levels said. vs is in order of precedence. It is the whole of
// the package doc's rule, and pure.
func combine(d *Decision, in *Input, vs []Verdict) {
	d.Allow, d.Verdicts = false, vs
	if isControl(in) && !slices.ContainsFunc(vs, func(v Verdict) bool { return v.Level == Global && v.Outcome == Denied }) {
		d.Allow, d.Rule = true, RuleControlPrefix+in.Action.Name
		d.Reason = fmt.Sprintf("%s is a control call, which only the global level can deny", in.Action.Name)
		return
	}
	for _, v := range vs {
		switch v.Outcome {
		case Missing:
			d.by(v, RuleMissing, fmt.Sprintf("the %s policy is required and not active", v.Level))
			return
		case Expired:
			d.by(v, RuleExpired, fmt.Sprintf("the %s policy is required and %s", v.Level, v.Reason))
			return
		case Pass, Allowed, Denied:
		default: // Erroneous, and a verdict nobody filled in
			d.by(v, RuleError, fmt.Sprintf("the %s policy failed: %s", v.Level, v.Reason))
			return
		}
	}
	for _, v := range vs {
		if v.Outcome == Denied {
			d.rule(v, v.Rules[0])
			return
		}
	}
	d.Rule, d.Reason = RuleNoGrant, "no level allows it"
	for _, v := range vs {
		if v.Outcome != Allowed {
			continue
		}
		if !v.covered {
			if d.Rule == RuleNoGrant {
				d.by(v, RuleDelegation, fmt.Sprintf("the %s policy allows it and may not: %s", v.Level, v.Reason))
			}
			continue
		}
		rule := v.Rules[0]
		if in.Kind == StateAdmit {
			i := slices.IndexFunc(v.Rules, func(r *Rule) bool { return v.grants[r.ID].exceeded(in.Update) == "" })
			if i < 0 {
				d.rule(v, rule)
				d.Rule, d.Reason = RuleGrant, fmt.Sprintf("%s of grant %s", v.grants[rule.ID].exceeded(in.Update), rule.ID)
				continue
			}
			rule = v.Rules[i]
			d.Grant = v.grants[rule.ID]
		}
		d.rule(v, rule)
		d.Allow = true
		return
	}
}

func (d *Decision) by(v Verdict, rule, reason string) {
	d.Level, d.Rule, d.Reason = v.Level, rule, reason
}

func (d *Decision) rule(v Verdict, r *Rule) {
	d.by(v, r.ID, r.Title)
	d.Title, d.Owner, d.File, d.Line = r.Title, r.Owner, r.File, r.Line
}

// scopes in the order in which they widen.
var scopes = []string{"zone", "region", "global"}

// exceeded names the bound that u breaks, or nothing.
func (g *Grant) exceeded(u *Update) string {
	scope := u.Scope
	if scope == "" {
		scope = "region"
	}
	want := slices.Index(scopes, scope)
	switch {
	case g == nil:
		return "there is nothing"
	case u.Key != g.Prefix && !strings.HasPrefix(u.Key, strings.TrimSuffix(g.Prefix, "/")+"/"):
		return fmt.Sprintf("key %s is outside the prefix %s", u.Key, g.Prefix)
	case u.Size < 0 || u.Size > g.MaxBytes:
		return fmt.Sprintf("%d bytes are more than the %d", u.Size, g.MaxBytes)
	case want < 0 || want > slices.Index(scopes, g.Scope):
		return fmt.Sprintf("scope %s is wider than the %s", scope, g.Scope)
	}
	return ""
}
