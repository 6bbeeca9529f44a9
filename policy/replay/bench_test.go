package replay

import (
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

func rule(word, id, body string) string {
	return fmt.Sprintf("# METADATA\n# title: The rule %s\n# labels:\n#   owner: mesh\n%s contains %q if {\n\t%s\n}\n\n", id, word, id, body)
}

// reference is 200 rules at three levels.
func reference() []policy.Level {
	pkg := func(level string) string { return "package bailiwick." + level + ".connect\n\nimport rego.v2\n\n" }
	var regional strings.Builder
	for i := range 192 {
		regional.WriteString(rule("allow", fmt.Sprintf("rule-%d", i), fmt.Sprintf("input.service.name == \"svc-%d\"\n\tinput.source.path[1] == \"shop\"\n\tinput.source.region == \"east\"", i)))
	}
	regional.WriteString(rule("allow", "granted", "input.source.spiffe_id in data.services[input.service.name].callers"))
	return []policy.Level{
		{Name: policy.Global, Revision: "1", Delegation: policy.Delegation{All: true}, Modules: map[string]string{"connect.rego": pkg(policy.Global) +
			rule("deny", "quarantined", `input.source.standing in {"quarantined", "revoked", "held"}`) + rule("deny", "unattested", "not input.source.attestation.ok") +
			rule("deny", "clock", "not input.time.trusted") + rule("deny", "old", "input.source.attestation.age_seconds > 86400")}},
		{Name: policy.Regional, Revision: "7", Delegation: policy.Delegation{Kinds: []policy.Kind{policy.Connect}, Regions: []string{"east"}},
			Modules: map[string]string{"connect.rego": pkg(policy.Regional) + regional.String()},
			Data:    map[string]any{"services": map[string]any{"web": map[string]any{"callers": []any{"spiffe://east.dev.example/workload/shop"}}}}},
		{Name: policy.Local, Revision: "3", Modules: map[string]string{"connect.rego": pkg(policy.Local) +
			rule("deny", "telnet", "input.service.port == 23") + rule("deny", "night", `input.service.name == "night"`) + rule("deny", "lab", `input.source.zone == "lab"`)}},
	}
}

// question is one of as many distinct connects as one likes.
func question(i int) policy.Input {
	peer := func(kind, name string, age int64) *policy.Peer {
		return &policy.Peer{SPIFFEID: "spiffe://east.dev.example/" + kind + "/" + name, TrustDomain: "east.dev.example", Path: []string{kind, name},
			Region: "east", Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true, AgeSeconds: age}}
	}
	source := peer("workload", "shop", int64(i%3600))
	source.Node = fmt.Sprintf("node-%d", i%10000)
	name := fmt.Sprintf("svc-%d", i%240)
	return policy.Input{V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: 1795000000 + int64(i), Trusted: true},
		Self: peer("node", "n1", 5), Source: source, Destination: peer("workload", name, 9),
		Service: &policy.Service{Name: name, Region: "east", Protocol: "tcp", Port: 443}, Action: &policy.Action{Name: policy.Accept}}
}

func newEngine(t testing.TB, levels ...policy.Level) *policy.Engine {
	t.Helper()
	e := policy.New(policy.Config{Cache: -1})
	if err := e.Activate(levels...); err != nil {
		t.Fatal(err)
	}
	return e
}

func record(t testing.TB, e *policy.Engine, n int) (out [][]byte) {
	t.Helper()
	for i := range n {
		ev := decision.NewEvent(e.Decide(t.Context(), question(i)), map[string]string{"id": "spiffe://east.dev.example/node/n1", "version": "v1"}, time.Unix(1795000000+int64(i), 0))
		ev.RequestID = uint64(i + 1)
		line, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	return out
}

func linesOf(list [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, l := range list {
			if !yield(l, nil) {
				return
			}
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	e := newEngine(b, reference()...)
	lines := record(b, e, 4096)
	e = policy.New(policy.Config{Cache: -1, Unrecorded: true})
	if err := e.Activate(reference()...); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d bytes a line", len(lines[0]))
	b.ReportAllocs()
	for b.Loop() {
		r, err := Run(b.Context(), linesOf(lines), e, Options{Workers: 1})
		if err != nil || r.Changed != 0 || r.Replayed != 4096 {
			b.Fatalf("%+v, %v", r, err)
		}
	}
	b.ReportMetric(float64(b.N)*4096/b.Elapsed().Seconds(), "decisions/s")
}
