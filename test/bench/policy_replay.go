package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/replay"
)

var replayBench = bench{
	area: "policy", name: "replay-rate", unit: "decisions/s of one core", higher: true, aim: 12000,
	reference: "OPA rego.PreparedEvalQuery over the same lines, their input decoded as OPA's decision log is: one compiler, the same rules asked for",
	note: "200 rules at three levels, every decision another one and nothing remembered; by processor time of this process, one worker; ours also compares " +
		"each answer with the recorded one; wanted are 20,000",
	prepare: func(_ string, s size) (sides, error) { return replayRate(s.pick(4000, 20)) },
}

// replayGC is how policy replay collects: later than a node does. Both sides have it.
const replayGC = 400

func replayRate(count int) (sides, error) {
	ctx := context.Background()
	levels := replayLevels()
	engine := policy.New(policy.Config{Cache: -1, Unrecorded: true})
	if err := engine.Activate(levels...); err != nil {
		return sides{}, err
	}
	recorder := policy.New(policy.Config{})
	if err := recorder.Activate(levels...); err != nil {
		return sides{}, err
	}
	lines := make([][]byte, count)
	for i := range lines {
		d := recorder.Decide(ctx, replayQuestion(i))
		line, err := json.Marshal(decision.NewEvent(d, map[string]string{"id": "spiffe://east.dev.example/node/n1"}, time.Unix(1795000000, 0)))
		if err != nil {
			return sides{}, err
		}
		lines[i] = line
	}
	query, err := mergedQuery(ctx, levels, `x = [data.bailiwick.global.connect.deny, data.bailiwick.regional.connect.allow, data.bailiwick.local.connect.deny]`)
	if err != nil {
		return sides{}, err
	}
	return sides{
		ours: func() (float64, error) {
			defer debug.SetGCPercent(debug.SetGCPercent(replayGC))
			return perCPUSecond(count, func() error {
				r, err := replay.Run(ctx, each(lines), engine, replay.Options{Workers: 1})
				if err == nil && (r.Replayed != int64(count) || r.Changed+r.ByOthers != 0) {
					err = fmt.Errorf("%d of %d replayed, %d differ", r.Replayed, count, r.Changed+r.ByOthers)
				}
				return err
			})
		},
		reference: func() (float64, error) {
			defer debug.SetGCPercent(debug.SetGCPercent(replayGC))
			return perCPUSecond(count, func() error {
				for _, line := range lines {
					var event struct {
						Input any `json:"input"`
					}
					if err := json.Unmarshal(line, &event); err != nil {
						return err
					}
					rs, err := query.Eval(ctx, rego.EvalInput(event.Input))
					if err != nil || len(rs) != 1 {
						return errors.Join(errors.New("no answer"), err)
					}
				}
				return nil
			})
		},
	}, nil
}

func each(lines [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, line := range lines {
			if !yield(line, nil) {
				return
			}
		}
	}
}

// replayLevels is 200 rules: denies at every level, and a region's allows as code and as data.
func replayLevels() []policy.Level {
	source := func(level string, rules ...string) map[string]string {
		return map[string]string{"connect.rego": "package bailiwick." + level + ".connect\n\nimport rego.v2\n\n" + strings.Join(rules, "\n")}
	}
	rule := func(word, id, body string) string {
		return fmt.Sprintf("# METADATA\n# title: The rule %s\n# labels:\n#   owner: mesh\n%s contains %q if {\n\t%s\n}\n", id, word, id, body)
	}
	var allows []string
	for i := range 192 {
		allows = append(allows, rule("allow", fmt.Sprintf("rule-%d", i), fmt.Sprintf("input.service.name == \"svc-%d\"\n\tinput.source.path[1] == \"shop\"\n\tinput.source.region == \"east\"", i)))
	}
	allows = append(allows, rule("allow", "granted", "input.source.spiffe_id in data.services[input.service.name].callers"))
	return []policy.Level{
		{Name: policy.Global, Revision: "1", Delegation: policy.Delegation{All: true}, Modules: source(policy.Global,
			rule("deny", "quarantined", `input.source.standing in {"quarantined", "revoked", "held"}`), rule("deny", "unattested", "not input.source.attestation.ok"),
			rule("deny", "clock", "not input.time.trusted"), rule("deny", "old", "input.source.attestation.age_seconds > 86400"))},
		{Name: policy.Regional, Revision: "1", Delegation: policy.Delegation{Kinds: []policy.Kind{policy.Connect}, Regions: []string{"east"}},
			Modules: source(policy.Regional, allows...),
			Data:    map[string]any{"services": map[string]any{"web": map[string]any{"callers": []any{"spiffe://east.dev.example/workload/shop"}}}}},
		{Name: policy.Local, Revision: "1", Modules: source(policy.Local, rule("deny", "telnet", "input.service.port == 23"),
			rule("deny", "night", `input.service.name == "night"`), rule("deny", "lab", `input.source.zone == "lab"`))},
	}
}

// replayQuestion is another question for each number.
func replayQuestion(i int) policy.Input {
	in := connectInput()
	in.Time.Unix = 1795000000 + int64(i)
	in.Service.Name, in.Service.Port = fmt.Sprintf("svc-%d", i%240), 443
	in.Source.Node, in.Source.Attestation.AgeSeconds = fmt.Sprintf("node-%d", i%10000), int64(i%3600)
	return in
}
