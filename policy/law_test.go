package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// conditions are the atoms of generated policies: facts that vary, facts that may be absent,
// negations of them, and one that fails to evaluate.
var conditions = []string{
	`true`,
	`input.source.region == "east"`,
	`input.source.region != input.self.region`,
	`input.service.region == "west"`,
	`input.service.name == "web"`,
	`input.source.attestation.ok`,
	`not input.source.attestation.ok`,
	`not input.source.zone == "z1"`,
	`input.source.standing in data.standings`,
	`time.parse_rfc3339_ns(input.source.zone) > 0`,
}

func randomLevel(r *rand.Rand, name string) Level {
	var b strings.Builder
	for i := range r.IntN(4) {
		fmt.Fprintf(&b, "%s contains \"r%d\" if {\n\t%s\n\t%s\n}\n", [...]string{"deny", "allow", "allow"}[r.IntN(3)], i,
			conditions[r.IntN(len(conditions))], conditions[r.IntN(len(conditions))])
	}
	l := level(name, Connect, b.String())
	l.Data = map[string]any{"standings": []any{"ok", "released"}}
	l.Delegation = Delegation{}
	if r.IntN(3) > 0 {
		l.Delegation = Delegation{Kinds: []Kind{Connect}, Regions: pick(r, "east", "west"), Services: pick(r, "web", "pay*")}
	}
	if r.IntN(4) == 0 {
		l.NotAfter = now.Add(-1)
	}
	l.Required = r.IntN(2) == 0
	return l
}

func pick(r *rand.Rand, from ...string) []string {
	var out []string
	for _, s := range from {
		if r.IntN(2) == 0 {
			out = append(out, s)
		}
	}
	return out
}

func randomConnect(r *rand.Rand) Input {
	in := connect()
	regions := []string{"east", "west", ""}
	in.Source.Region, in.Service.Region = regions[r.IntN(3)], regions[r.IntN(3)]
	in.Service.Name = []string{"web", "payments", "other"}[r.IntN(3)]
	in.Source.Standing = []string{"ok", "held", ""}[r.IntN(3)]
	in.Source.Zone = []string{"", "z1", "2026-01-01T00:00:00Z"}[r.IntN(3)]
	switch r.IntN(3) {
	case 0:
		in.Source.Attestation = nil
	case 1:
		in.Source.Attestation.OK = false
	}
	if r.IntN(3) == 0 {
		in.Action = &Action{Name: Dial}
	}
	if r.IntN(6) == 0 {
		in.Service, in.Action = nil, &Action{Name: append([]string{"format"}, ControlCalls...)[r.IntN(1+len(ControlCalls))]}
	}
	return in
}

// The law: adding or changing a lower level never turns a DENY into an ALLOW outside that level's
// delegation. "Before" is the same fleet without the lower level, or with another one that allows
// nothing more; "after" has it.
func FuzzLowerLevelsNeverWiden(f *testing.F) {
	for seed := range uint64(24) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		global := randomLevel(r, Global)
		global.Delegation = Delegation{All: true}
		middle, lower := randomLevel(r, Regional), randomLevel(r, Local)
		before, after := New(Config{}), New(Config{})
		stacks := [][2][]Level{
			{{global}, {global, middle}},
			{{global, middle}, {global, middle, lower}},
			{{global}, {global, lower}},
			{{middle}, {middle, lower}},
		}
		for _, s := range stacks {
			if err := before.Activate(s[0]...); err != nil {
				t.Fatal(err)
			}
			if err := after.Activate(s[1]...); err != nil {
				t.Fatal(err)
			}
			added := s[1][len(s[1])-1]
			for range 20 {
				in := randomConnect(r)
				b, a := before.Decide(t.Context(), in), after.Decide(t.Context(), in)
				if !b.Allow && a.Allow && (a.Level != added.Name || !added.Delegation.Covers(&in)) {
					t.Fatalf("%s widened outside its delegation:\n%s\n%s\n%s", added.Name, a.Input, b.Explain(), a.Explain())
				}
				denied := false
				for _, v := range a.Verdicts {
					denied = denied || v.Outcome == Denied || v.Outcome == Erroneous
				}
				if denied && a.Allow && !controls(&in) {
					t.Fatalf("allowed past a denial: %s", a.Explain())
				}
			}
		}
	})
}

// The same law for every kind, over drawn policies that read anything, and with everything that
// can go wrong with a level: it is absent, has ended, fails, panics, or is not delegated the kind.
// Beside it stands the combiner's rule, said once more of what came out.
func FuzzLawOfEveryKind(f *testing.F) {
	for seed := range uint64(28) {
		f.Add(seed)
	}
	tried, allowed, widened, broken := 0, 0, 0, 0
	f.Fuzz(func(t *testing.T, seed uint64) {
		tried++
		r := rand.New(rand.NewPCG(seed, 4))
		kind := Kinds[int(seed)%len(Kinds)]
		stack := []Level{drawn(t, r, Global, kind), drawn(t, r, Regional, kind), drawn(t, r, Local, kind)}
		for i := range stack[1:] {
			if r.IntN(2) == 0 { // or else hardly anything is covered
				stack[1+i].Delegation = Delegation{Kinds: []Kind{kind}, Regions: []string{"east", "west"}}
			}
		}
		for range 6 {
			keep := slices.DeleteFunc(slices.Clone(stack), func(Level) bool { return r.IntN(4) == 0 })
			if len(keep) == 0 {
				continue
			}
			added := keep[len(keep)-1]
			unhurried := Config{Cache: -1, Deadline: time.Hour}
			before, after := engine(t, unhurried, keep[:len(keep)-1]...), engine(t, unhurried, keep...)
			panics := r.IntN(5) == 0
			if panics { // the level that was added
				gen := after.gen.Load()
				last := *gen.levels[len(keep)-1]
				last.compiled = nil
				gen.levels[len(keep)-1] = &last
			}
			for range 30 {
				in := randomInput(r, kind)
				for _, p := range []*Peer{in.Self, in.Source} {
					if p != nil && r.IntN(4) > 0 {
						p.Region = [...]string{"east", "west"}[r.IntN(2)]
					}
				}
				if r.IntN(4) > 0 {
					in.Time.Until = 0
				}
				b, a := before.Decide(t.Context(), in), after.Decide(t.Context(), in)
				if a.Allow {
					allowed++
				}
				if !b.Allow && a.Allow && added.Name != Global {
					widened++
					if a.Level != added.Name || !added.Delegation.Covers(&in) || added.expired(&in) || panics {
						t.Fatalf("%s widened outside its delegation:\n%s\n%s\n%s", added.Name, a.Input, b.Explain(), a.Explain())
					}
				}
				if lawful(t, &in, a, keep); panics && len(a.Verdicts) > 0 {
					broken++
				}
			}
		}
	})
	if tried > 0 && (allowed == 0 || widened == 0 || broken == 0) { // a fuzzer's workers are processes of their own
		f.Errorf("%d allowed, %d by the added level, %d with a level that panics: the law was not tried", allowed, widened, broken)
	}
}

// lawful holds an answer against the rule of the package doc.
func lawful(t *testing.T, in *Input, d Decision, levels []Level) {
	t.Helper()
	_, control := controlCall(in)
	may := map[string]bool{}
	for _, l := range levels {
		may[l.Name] = l.Delegation.Covers(in) && !l.expired(in)
	}
	granted := false
	for _, v := range d.Verdicts {
		switch v.Outcome {
		case Denied, Erroneous, Missing, Expired:
			if d.Allow && !control {
				t.Fatalf("allowed past %s of %s: %s", v.Outcome, v.Level, d.Explain())
			}
		case Allowed:
			granted = granted || may[v.Level]
		}
	}
	if d.Allow && !control && !granted {
		t.Fatalf("allowed by nobody who may: %s", d.Explain())
	}
	if d.Allow && control && slices.ContainsFunc(d.Verdicts, func(v Verdict) bool { return v.Level == Global && v.Outcome == Denied }) {
		t.Fatalf("a control call past the global level: %s", d.Explain())
	}
	if !d.Allow && (d.Grants != nil || d.Thresholds != nil) {
		t.Fatalf("a denial with grants: %s", d.Explain())
	}
	for _, g := range d.Grants {
		if !may[strings.TrimPrefix(g.Prefix, "/")] {
			t.Fatalf("the grant %s of a level that may not: %s", g.Prefix, d.Explain())
		}
	}
	if d.Thresholds != nil && !may[levelOrder[d.Thresholds.CapPercent-1]] {
		t.Fatalf("thresholds of a level that may not: %s", d.Explain())
	}
}

// drawn is a random policy of a level that compiles.
func drawn(t *testing.T, r *rand.Rand, name string, kind Kind) Level {
	t.Helper()
	for range 100 {
		l := randomPolicy(r, name, kind)
		if _, err := compile(&l); err == nil {
			return l
		}
	}
	t.Fatal("none of 100 policies compiles")
	return Level{}
}

func FuzzParseInput(f *testing.F) {
	d := New(Config{}).Decide(f.Context(), connect())
	f.Add([]byte(d.Input))
	f.Add([]byte(`{"v":1,"kind":"attest","time":{"unix":1,"trusted":false},"attest":{"method":"x","ek":{},"untrusted":{"a":[[[[1.5]]]]}}}`))
	e := engine(f, Config{Deadline: time.Hour}, level(Global, Connect, `allow contains "yes" if input.source.region == "east"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseInput(b)
		if err != nil {
			return
		}
		first := e.Decide(t.Context(), in)
		if first.Rule == RulePanic || first.Rule == RuleError {
			t.Fatalf("%s", first.Explain())
		}
		if first.Input == nil {
			return // the state of the levels made it too large
		}
		again, err := ParseInput(first.Input)
		if err != nil {
			t.Fatalf("a recorded input does not parse: %v", err)
		}
		if second := e.Decide(t.Context(), again); second.Allow != first.Allow || string(second.Input) != string(first.Input) {
			t.Fatalf("does not replay:\n%s\n%s", first.Input, second.Input)
		}
	})
}

// FuzzActivate: whatever a signed bundle holds as Rego, it is refused or it decides.
func FuzzActivate(f *testing.F) {
	f.Add(module(Global, Connect, `allow contains "yes" if input.source.region == "east"`))
	f.Add(module(Global, StateAdmit, "allow contains \"a\" if true\ngrant[\"a\"] := {\"prefix\": \"/a\"}"))
	f.Add("package bailiwick.global.lib\nimport rego.v2\nf(x) := y if y := x")
	f.Fuzz(func(t *testing.T, src string) {
		e := New(Config{})
		if err := e.Activate(Level{Name: Global, Modules: map[string]string{"a.rego": src}, Delegation: Delegation{All: true}}); err != nil {
			return
		}
		if d := e.Decide(t.Context(), connect()); d.Rule == RulePanic {
			t.Fatal(d.Explain())
		}
	})
}

func controls(in *Input) bool {
	_, ok := controlCall(in)
	return ok
}
