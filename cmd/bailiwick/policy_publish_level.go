package main

import (
	"crypto/ecdsa"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// oneLevel refuses a working tree: only the folder of one level is published.
func oneLevel(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, workbench.PlanFile)); err != nil {
		return nil
	}
	var levels []string
	for _, name := range workbench.LevelNames {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.IsDir() {
			levels = append(levels, filepath.Join(dir, name))
		}
	}
	if len(levels) == 0 {
		return nil
	}
	return &usageError{fmt.Errorf("%s is a working tree: publish the folder of one level, %s", dir, strings.Join(levels, " or "))}
}

// keyFor refuses a key of another level than that of the folder. known says that versions or
// delegations of the key are.
func (p *publication) keyFor(dir string, key *ecdsa.PrivateKey, next provision.Policy, known bool) error {
	level, err := workbench.LevelOf(dir)
	if err != nil || level == next.Level {
		return nil // what else is wrong with the folder is told when it is compiled
	}
	fingerprint := provision.KeyFingerprint(&key.PublicKey)
	if known {
		return &usageError{fmt.Errorf("%s (%s) signs %s policy of %s, and %s holds %s policy: give the key of that level and region", p.key, fingerprint, next.Level, next.Scope, dir, level)}
	}
	where := ""
	if len(p.held) > 0 {
		where = fmt.Sprintf(" (%s)", strings.Join(p.held, ", "))
	}
	return &usageError{fmt.Errorf("%s (%s) signed none of the policy that is known here%s, and %s holds %s policy: give the key of that level and region; for the first version of a scope --delegation FILE is required",
		p.key, fingerprint, where, dir, level)}
}

// warn tells what the version before decides and the next one leaves to nobody.
func (p *publication) warn(next provision.Policy, before []*controlv1.SignedPolicy) {
	if len(before) == 0 {
		return
	}
	signed, content, err := bundle.Split(before[0].File)
	if err != nil {
		return
	}
	r, err := bundle.ReadRecord(signed)
	if err != nil {
		return
	}
	now := kindsOf(next.Level, next.Content)
	for _, kind := range kindsOf(next.Level, content) {
		if !slices.Contains(now, kind) {
			fmt.Fprintf(p.err, "warning: version %d has rules of kind %s, this has none: the %s level will allow nothing of it and deny nothing\n", r.Version, kind, next.Level)
		}
	}
}

// warnOfRegion tells that a tree was written for another region than the one its policy is signed for.
func (p *publication) warnOfRegion(dir string, next provision.Policy) {
	tree, err := workbench.Open(dir)
	if err != nil || next.Level == policy.Global {
		return
	}
	domain, _, _ := strings.Cut(next.Scope, "/")
	if meant := tree.Plan.TrustDomain; meant != "" && meant != domain {
		fmt.Fprintf(p.err, "warning: %s says that %s is for %s, and it is signed for %s\n", filepath.Join(filepath.Dir(filepath.Clean(dir)), workbench.PlanFile), dir, meant, domain)
	}
}

// kindsOf are the kinds of which a content has rules; none where it does not compile.
func kindsOf(level string, content []byte) (out []policy.Kind) {
	c, err := bundle.Unpack(content)
	if err != nil {
		return nil
	}
	rules, err := policy.Fingerprints(policy.Level{Name: level, Modules: c.Modules, Data: c.Data, Schemas: c.Schemas})
	if err != nil {
		return nil
	}
	for _, r := range rules {
		if !slices.Contains(out, r.Kind) {
			out = append(out, r.Kind)
		}
	}
	return out
}
