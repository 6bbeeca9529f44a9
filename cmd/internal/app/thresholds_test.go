package app

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// What policy says is in force, within bounds; what it does not say, or says wrongly, leaves the
// defaults; each answer is recorded and told once.
func TestThresholdsFollowPolicy(t *testing.T) {
	with := func(said any) policy.Level {
		l := builtin.Global()
		l.Data["quarantine"] = said
		return l
	}
	bare := builtin.Global()
	delete(bare.Modules, "quarantine.rego")
	for name, tt := range map[string]struct {
		levels []policy.Level
		want   quarantine.Thresholds
		says   string
		denied bool
	}{
		"shipped":        {[]policy.Level{builtin.Global()}, quarantine.Defaults(), "level=INFO", false},
		"tuned":          {[]policy.Level{with(map[string]any{"hold_seconds": 7, "cap_percent": 3})}, quarantine.Thresholds{Hold: 7 * time.Second, HoldMax: 10 * time.Minute, MildFaults: 8, Cap: 3, CapProven: 25, Observers: 45, Quorum: 67, Budget: 3}, "hold=7s", false},
		"beyond":         {[]policy.Level{with(map[string]any{"cap_proven_percent": 100})}, quarantine.Thresholds{Hold: 30 * time.Second, HoldMax: 10 * time.Minute, MildFaults: 8, Cap: 10, CapProven: 49, Observers: 45, Quorum: 67, Budget: 3}, "cap_proven_percent is 49 instead of 100", false},
		"opened":         {[]policy.Level{with(map[string]any{"suspect_open": []any{"x-route", "service"}})}, quarantine.Defaults(), "suspect_open=\"[service x-route]\"", false},
		"opened wrongly": {[]policy.Level{with(map[string]any{"suspect_open": "*"})}, quarantine.Defaults(), "rule=level-error", true},
		"wrong":          {[]policy.Level{with(map[string]any{"cap_percent": "all"})}, quarantine.Defaults(), "rule=level-error", true},
		"misspelt":       {[]policy.Level{with(map[string]any{"cap_percents": 3})}, quarantine.Defaults(), "rule=level-error", true},
		"nothing":        {[]policy.Level{bare}, quarantine.Defaults(), "rule=no-grant", true},
		"no policy":      {nil, quarantine.Defaults(), "rule=level-missing", true},
		"a level denies": {[]policy.Level{with(map[string]any{"hold_seconds": 7}), denying(policy.Regional, policy.Quarantine)}, quarantine.Defaults(), "rule=never", true},
	} {
		engine := policy.New(policy.Config{})
		if err := engine.Activate(tt.levels...); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		var got quarantine.Thresholds
		open := []string{"never told"}
		var recorded []policy.Decision
		asked, now := 0, time.Unix(1_790_000_000, 0)
		th := &thresholds{
			engine: engine, log: slog.New(slog.NewTextHandler(&said, nil)), now: func() time.Time { return now },
			decide: func(ctx context.Context, in policy.Input) policy.Decision { asked++; return engine.Decide(ctx, in) },
			record: func(d policy.Decision) policy.Decision { recorded = append(recorded, d); return d },
			self:   func() *policy.Peer { return &policy.Peer{Region: "east"} },
			use:    func(t quarantine.Thresholds) { got = t },
			open:   func(kinds []string) { open = kinds },
		}
		for range 3 {
			th.at(quarantine.Roster{Attested: 40})
		}
		if want := map[string][]string{"shipped": {"*"}, "opened": {"service", "x-route"}}[name]; !slices.Equal(open, want) {
			t.Errorf("%s: open %q, want %q", name, open, want)
		}
		if got != tt.want || asked != 1 || len(recorded) != 1 || recorded[0].Allow == tt.denied || !strings.Contains(said.String(), tt.says) {
			t.Errorf("%s: %+v after %d questions, recorded %v, said %s", name, got, asked, recorded, &said)
		}
		now = now.Add(askAgain)
		th.at(quarantine.Roster{Attested: 40})
		th.at(quarantine.Roster{Attested: 41})
		if asked != 3 || len(recorded) != 1 {
			t.Errorf("%s: asked %d times, recorded %d", name, asked, len(recorded))
		}
	}
}

// denying is a level that denies a kind.
func denying(name string, kind policy.Kind) policy.Level {
	return policy.Level{Name: name, Modules: map[string]string{"no.rego": "package bailiwick." + name + "." + string(kind) +
		"\n\nimport rego.v2\n\n# METADATA\n# title: Never\n# labels:\n#   owner: test\ndeny contains \"never\" if true\n"}}
}
