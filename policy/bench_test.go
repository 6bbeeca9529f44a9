package policy

import (
	"fmt"
	"strings"
	"testing"
)

// reference is a policy of the size this package is meant for: regional rules as code, a table of
// grants as data, and denies at every level.
func reference() []Level {
	global := level(Global, Connect, `
	deny contains "quarantined" if input.source.standing in {"quarantined", "revoked", "held"}
	deny contains "unattested" if not input.source.attestation.ok
	deny contains "clock" if not input.time.trusted
	deny contains "old" if input.source.attestation.age_seconds > 86400`)
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "allow contains \"rule-%d\" if {\n\tinput.service.name == \"svc-%d\"\n\tinput.source.path[1] == \"shop\"\n\tinput.source.region == \"east\"\n}\n", i, i)
	}
	b.WriteString(`allow contains "granted" if input.source.spiffe_id in data.services[input.service.name].callers`)
	regional := level(Regional, Connect, b.String())
	regional.Data = map[string]any{"services": map[string]any{"web": map[string]any{"callers": []any{
		"spiffe://west.dev.example/workload/shop", "spiffe://east.dev.example/workload/shop"}}}}
	regional.Delegation = Delegation{Kinds: []Kind{Connect}, Regions: []string{"east"}}
	local := level(Local, Connect, `deny contains "port" if input.service.port == 23`)
	return []Level{global, regional, local}
}

// BenchmarkDecideConnect: 200 rules at three levels, against one rule at one level and against
// what plain Go would do with a map.
func BenchmarkDecideConnect(b *testing.B) {
	run := func(levels ...Level) func(*testing.B) {
		return func(b *testing.B) {
			e := engine(b, Config{Cache: -1}, levels...)
			in := connect()
			if d := e.Decide(b.Context(), in); !d.Allow {
				b.Fatal(d.Explain())
			}
			b.ReportAllocs()
			for b.Loop() {
				if !e.Decide(b.Context(), in).Allow {
					b.Fatal("denied")
				}
			}
		}
	}
	b.Run("reference", run(reference()...))
	b.Run("cached", func(b *testing.B) {
		e := engine(b, Config{}, reference()...)
		in := connect()
		e.Decide(b.Context(), in)
		b.ReportAllocs()
		for b.Loop() {
			if d := e.Recall(in); d == nil || !d.Allow {
				b.Fatal("not known")
			}
		}
	})
	b.Run("floor", run(level(Global, Connect, `allow contains "yes" if input.source.region == "east"`)))
	b.Run("go", func(b *testing.B) {
		callers := map[[2]string]bool{{"web", "spiffe://east.dev.example/workload/shop"}: true}
		bad := map[string]bool{"quarantined": true, "held": true, "revoked": true}
		in := connect()
		b.ReportAllocs()
		for b.Loop() {
			if bad[in.Source.Standing] || in.Source.Attestation == nil || !in.Source.Attestation.OK || in.Service.Port == 23 ||
				!callers[[2]string{in.Service.Name, in.Source.SPIFFEID}] {
				b.Fatal("denied")
			}
		}
	})
	b.Run("input", func(b *testing.B) {
		in := connect()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := in.value(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The budget of allocations for one uncached decision of the reference policy, all included.
func TestAllocationsOfADecision(t *testing.T) {
	e := engine(t, Config{Cache: -1}, reference()...)
	in := connect()
	if n := testing.AllocsPerRun(100, func() { e.Decide(t.Context(), in) }); n > 300 { // 258, and the race detector adds some 22
		t.Errorf("%v allocations, at most 300", n)
	} else {
		t.Logf("%v allocations", n)
	}
}
