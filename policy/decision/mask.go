package decision

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// maskWhole is the path of the whole input.
const maskWhole = "/input"

// notShown begins a reason that is hidden.
const notShown = "not shown: "

// Masked is a decision with nothing in it that masking rules hide, for whoever shows decisions that
// were not recorded. failed is why the rules could not say what to hide; nil where they did.
func Masked(d policy.Decision, rules policy.Recording, failed error) policy.Decision {
	e := NewEvent(d, nil, d.At)
	if failed != nil {
		e.hide(rulesFailed)
	} else {
		e.mask(rules.Masks)
	}
	return e.Decision()
}

// rulesFailed is why everything is hidden then.
const rulesFailed = "the masking rules failed"

// mask applies masking rules to the input, and takes what they hid out of every other field as
// well. A rule whose path is not there does nothing. Where that fails, or there is no input that could
// be searched for in the rest, nothing that may come from the caller is left.
func (e *Event) mask(masks []policy.Mask) {
	if len(masks) == 0 {
		return
	}
	if len(e.Input) == 0 {
		e.hide("there is no input of which the masking rules could say what to hide")
		return
	}
	masks = slices.Clone(masks)
	slices.SortFunc(masks, func(a, b policy.Mask) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Op, b.Op)) })
	var input any
	d := json.NewDecoder(bytes.NewReader(e.Input))
	d.UseNumber()
	if d.Decode(&input) != nil {
		e.hide("the input cannot be masked")
		return
	}
	m := masking{root: map[string]any{"input": input}}
	for _, rule := range masks {
		if !m.apply(rule) {
			continue
		}
		if rule.Op == policy.MaskUpsert {
			e.Masked = append(e.Masked, rule.Path)
		} else {
			e.Erased = append(e.Erased, rule.Path)
		}
	}
	e.Input = nil
	if rest, ok := m.root["input"]; ok {
		b, err := json.Marshal(rest)
		if err != nil {
			e.hide("the input cannot be masked")
			return
		}
		e.Input = b
	}
	if len(e.Masked)+len(e.Erased) > 0 {
		e.forget(m.hidden)
	}
}

// hide takes everything out that may come from the input: which rules hide what is not known.
func (e *Event) hide(why string) {
	e.Input, e.RequestedBy, e.Result.Target, e.Masked, e.Erased = nil, "", "", nil, []string{maskWhole}
	e.Result.Reason = notShown + why
	e.Result.Verdicts = slices.Clone(e.Result.Verdicts)
	for i := range e.Result.Verdicts {
		e.Result.Verdicts[i].Reason = ""
	}
	e.Result.Grants = nil
}

// forget takes hidden values out of the fields that repeat the input. A text that could quote it goes
// whole: a copy in it may be cut, or escaped.
func (e *Event) forget(hidden []string) {
	const shortest = 3 // a text as short as that is in many words
	if e.Result.quotes() {
		e.Result.Reason = notShown + "the input was masked"
	}
	e.Result.Verdicts = slices.Clone(e.Result.Verdicts)
	for i := range e.Result.Verdicts {
		switch v := &e.Result.Verdicts[i]; v.Outcome {
		case policy.Pass, policy.Allowed, policy.Denied, policy.Expired, policy.Missing: // what the package policy says itself
		default:
			v.Reason = ""
		}
	}
	for _, value := range hidden {
		if value == "" {
			continue
		}
		for _, name := range []*string{&e.RequestedBy, &e.Result.Target} {
			if strings.Contains(*name, value) {
				*name = ""
			}
		}
	}
	e.Result.Grants = slices.DeleteFunc(slices.Clone(e.Result.Grants), func(g policy.Grant) bool {
		return slices.ContainsFunc(hidden, func(value string) bool { return len(value) >= shortest && strings.Contains(g.Prefix, value) })
	})
}

// quotes reports whether the reason may be more than words of the policy or of the engine.
func (r *Result) quotes() bool {
	switch r.Rule {
	case policy.RuleNoGrant, policy.RuleEnded, policy.RuleMissing, policy.RuleExpired, policy.RuleStale, policy.RuleDelegation:
		return false
	}
	return r.Title == "" || r.Reason != r.Title
}

// masking is an input that is being masked.
type masking struct {
	root   map[string]any
	hidden []string // texts and numbers that were in what is gone
}

// apply does one rule and reports whether there was something to hide.
func (m *masking) apply(rule policy.Mask) bool {
	tokens := strings.Split(strings.TrimPrefix(rule.Path, "/"), "/")
	for i, t := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~") // RFC 6901, section 4
	}
	last := len(tokens) - 1
	var at any = m.root
	for _, t := range tokens[:last] {
		switch in := at.(type) {
		case map[string]any:
			at = in[t]
		case []any:
			i, err := strconv.Atoi(t)
			if err != nil || i < 0 || i >= len(in) {
				return false
			}
			at = in[i]
		default:
			return false
		}
	}
	switch in := at.(type) {
	case map[string]any:
		old, ok := in[tokens[last]]
		if !ok {
			return false
		}
		m.collect(old)
		if rule.Op == policy.MaskUpsert {
			in[tokens[last]] = rule.Value
		} else {
			delete(in, tokens[last])
		}
	case []any:
		i, err := strconv.Atoi(tokens[last])
		if err != nil || i < 0 || i >= len(in) {
			return false
		}
		m.collect(in[i])
		in[i] = rule.Value // an entry that is taken out leaves null: those behind it keep their places
	default:
		return false
	}
	return true
}

func (m *masking) collect(v any) {
	switch v := v.(type) {
	case string:
		m.hidden = append(m.hidden, v)
	case json.Number:
		if len(v) > 5 { // a small number is in many words
			m.hidden = append(m.hidden, fmt.Sprint(v))
		}
	case []any:
		for _, x := range v {
			m.collect(x)
		}
	case map[string]any:
		for k, x := range v {
			m.collect(x)
			m.collect(k)
		}
	}
}
