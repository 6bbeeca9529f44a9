package tpm

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestEveryCheck walks all checks of all kinds of evidence: each has evidence that it
// refuses, it and no other, and there is no such evidence without a check.
func TestEveryCheck(t *testing.T) {
	f := newForger(t)
	t.Run("bailiwick_tpm", func(t *testing.T) {
		walk(t, Rules(), lies(t), func(t *testing.T, rule, name string) (bool, error) {
			c, err := f.run(t, lies(t)[rule][name]) // with the subtest's own cleanups
			return c.NodeKey != nil || c.PCRs != nil, err
		})
	})
	t.Run("quote", func(t *testing.T) {
		all := quoteLies(t)
		walk(t, QuoteRules(), all, func(t *testing.T, rule, name string) (bool, error) {
			c, err := newForger(t).quote(t, all[rule][name])
			return c.NodeKey != nil || c.PCRs != nil, err
		})
	})
	t.Run("tpm_devid", func(t *testing.T) {
		all := devidLies(t)
		walk(t, DevIDRules(), all, func(t *testing.T, rule, name string) (bool, error) {
			c, err := f.runDevID(t, all[rule][name])
			return c.NodeKey != nil || c.Fingerprint != "", err
		})
	})
}

func walk[L any](t *testing.T, rules []string, all map[string]map[string]L, tell func(t *testing.T, rule, name string) (claims bool, err error)) {
	for i, rule := range rules {
		if len(all[rule]) == 0 {
			t.Errorf("no lie tests the rule %s", rule)
		}
		if slices.Contains(rules[:i], rule) {
			t.Errorf("two rules are called %s", rule)
		}
		for name := range all[rule] {
			t.Run(rule+"/"+strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
				claims, err := tell(t, rule, name)
				var check *CheckError
				if !errors.As(err, &check) || !errors.Is(err, ErrRefused) {
					t.Fatalf("got %v, want a refusal", err)
				}
				if check.Check != rule {
					t.Errorf("refused by %s (%s), want %s", check.Check, check.Detail, rule)
				}
				if claims {
					t.Error("claims beside a refusal")
				}
			})
		}
	}
	for rule := range all {
		if !slices.Contains(rules, rule) {
			t.Errorf("lies against %s, which is no rule", rule)
		}
	}
}
