package policy

import (
	"fmt"
	"slices"
)

// ControlCalls are the names of Action that keep a node repairable: a connect with one of them and
// no Service is allowed unless the global level denies it, so that a bad policy cannot cut off the
// calls that would replace it. The caller still authenticates the peer and checks its standing.
var ControlCalls = []string{"enrol", "renew", "trust_sync", "policy_sync", "standing_sync", "appeal"}

// RepairCalls are the calls of a node's own API that its owner needs to see what is wrong and to
// bring in what mends it. Where Call.Owner is true they are allowed unless the global level denies.
var RepairCalls = []string{
	"Status", "Why", "ListCases", "ShowCase", "ListTrust", "ImportTrust", "ListPolicies", "PublishPolicy", "StopShadow",
}

// controlCall names the control or repair call that in is.
func controlCall(in *Input) (name string, ok bool) {
	switch {
	case in.Kind == Connect && in.Service == nil && in.Action != nil:
		return in.Action.Name, slices.Contains(ControlCalls, in.Action.Name)
	case in.Kind == Admin && in.Call != nil && in.Call.Owner:
		return in.Call.Name, slices.Contains(RepairCalls, in.Call.Name)
	}
	return "", false
}

// combine fills d in from what the levels said. vs is in order of precedence. It is the whole of
// the package doc's rule, and pure.
func combine(d *Decision, in *Input, vs []Verdict) {
	d.Allow, d.Verdicts = false, vs
	if name, ok := controlCall(in); ok && !slices.ContainsFunc(vs, func(v Verdict) bool { return v.Level == Global && v.Outcome == Denied }) {
		d.Allow, d.Rule = true, RuleControlPrefix+name
		d.Reason = fmt.Sprintf("%s is a control call, which only the global level can deny", name)
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
			if d.Rule == RuleNoGrant && !d.Allow {
				d.by(v, RuleDelegation, fmt.Sprintf("the %s policy allows it and may not: %s", v.Level, v.Reason))
			}
			continue
		}
		if v.stale == Freeze && in.Kind == Connect {
			if !d.Allow {
				d.by(v, RuleStale, fmt.Sprintf("the %s policy allows it, and is frozen: there was no news of it for too long", v.Level))
			}
			continue
		}
		d.Grants = append(d.Grants, v.grants...)
		if len(v.thresholds) > 0 { // a level below was delegated to say it better
			d.Thresholds = &v.thresholds[0]
			d.rule(v, v.Rules[0])
		}
		if !d.Allow {
			d.rule(v, v.Rules[0])
			d.Allow = true
		}
	}
	for _, v := range vs {
		if d.Allow && v.stale == DenyNew && in.Kind == Connect {
			*d = Decision{ID: d.ID, Kind: d.Kind, Source: d.Source, Target: d.Target, Revision: d.Revision, Input: d.Input, At: d.At, Verdicts: vs}
			d.by(v, RuleStale, fmt.Sprintf("there was no news of the %s policy for too long, so nothing new is allowed", v.Level))
		}
	}
}

func (d *Decision) by(v Verdict, rule, reason string) {
	d.Level, d.Rule, d.Reason = v.Level, rule, reason
}

func (d *Decision) rule(v Verdict, r *Rule) {
	d.by(v, r.ID, r.Title)
	d.Title, d.Owner, d.File, d.Line = r.Title, r.Owner, r.File, r.Line
}
