package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// bombs are what a hostile author would put into a rule: %s is a list or set to work on, x0 a long
// text. Each is cheap to write and dear to run.
var bombs = []string{
	"some a1 in %[1]s\n\tsome a2 in %[1]s\n\tsome a3 in %[1]s\n\ta1 == a2\n\ta2 != a3",
	"count([1 | some b1 in %[1]s; some b2 in %[1]s; some b3 in %[1]s]) == 1",
	"count({[c1, c2] | some c1 in %[1]s; some c2 in %[1]s}) == 1",
	"every d1 in %[1]s { every d2 in %[1]s { every d3 in %[1]s { d1 != concat(\"\", [\"y\", d2, d3]) } } }",
	"[%[1]s[_], %[1]s[_], %[1]s[_]] == [1, 2, 3]",
	"some e in %[1]s\n\tcount(sort(%[1]s)) == e",
	"some g in %[1]s\n\tcount(split(concat(\"\", %[1]s), \"\")) == g",
	"some h in %[1]s\n\tregex.match(\"(x?){200}z\", x0)\n\th == 1",
	"some i in %[1]s\n\tglob.match(\"*x*x*x*x*x*x*z\", [], x0)\n\ti == 1",
	"some j in %[1]s\n\tstrings.any_prefix_match(%[1]s, [k | some k in %[1]s])\n\tj == 1",
	"some l in %[1]s\n\tcount(union({{m | some m in %[1]s}, {l}})) == 0",
	"some n in %[1]s\n\tindexof(concat(\",\", %[1]s), \"q\") == n",
	"f12(x0, \"\")",
	"x20 == \"\"",
}

// lists are what bombs work on.
var lists = []string{"data.n", "data.strings", "input.source.path", "[v | some v in input.source.labels]", "split(x0, \"\")", "data.wide[_]"}

// hostilePolicy stacks bombs behind a condition that no measured input meets.
func hostilePolicy(r *rand.Rand) Level {
	var b strings.Builder
	b.WriteString("deny contains \"slow\" if {\n\tinput.source.zone == concat(\"\", [\"trig\", \"ger\"])\n\tx0 := input.source.labels.long\n")
	list := lists[r.IntN(len(lists))]
	if strings.Contains(list, "(") || strings.HasPrefix(list, "[") || strings.Contains(list, "_") {
		fmt.Fprintf(&b, "\tlist := %s\n", list)
		list = "list"
	}
	for i := range 20 {
		fmt.Fprintf(&b, "\tx%d := concat(\"\", [x%d, x%d])\n", i+1, i, i)
		if r.IntN(4) > 0 {
			break
		}
	}
	for range 1 + r.IntN(2) {
		bomb := bombs[r.IntN(len(bombs))]
		if strings.Contains(bomb, "x20") && !strings.Contains(b.String(), "x20 ") {
			continue
		}
		if strings.Contains(bomb, "%") {
			bomb = fmt.Sprintf(bomb, list)
		}
		for _, v := range "abcdeghijklmn" {
			bomb = strings.ReplaceAll(bomb, fmt.Sprintf("some %c in", v), fmt.Sprintf("some %c0 in", v))
		}
		fmt.Fprintf(&b, "\t%s\n", bomb)
	}
	b.WriteString("}\nallow contains \"yes\" if true\n")
	if strings.Contains(b.String(), "f12") {
		b.WriteString("f0(x, y) if startswith(x, y)\n")
		for i := range 12 {
			fmt.Fprintf(&b, "f%d(x, y) if {\n\tnot f%d(x, concat(\"\", [y, \"p\"]))\n\tnot f%d(x, concat(\"\", [y, \"q\"]))\n\tnot f%d(x, concat(\"\", [y, \"r\"]))\n}\n", i+1, i, i, i)
		}
	}
	l := level(Global, Connect, b.String())
	var n, texts, wide []any
	for i := range 3000 {
		n = append(n, i)
		texts = append(texts, fmt.Sprint("text-", i))
	}
	for range 40 {
		wide = append(wide, n)
	}
	l.Data = map[string]any{"n": n, "strings": texts, "wide": wide}
	return l
}

func triggered() Input {
	in := connect()
	in.Source.Zone = "trigger"
	in.Source.Labels = map[string]string{"long": strings.Repeat("x", MaxString)}
	for i := range 200 {
		in.Source.Labels[fmt.Sprint("k", i)] = strings.Repeat("x", 20)
		in.Source.Path = append(in.Source.Path, fmt.Sprint("p", i))
	}
	return in
}

// No policy can stall the data path: whatever it is, it is refused when it is activated, or each of
// its evaluations ends within the steps, counted and not timed, and denies.
func FuzzHostilePolicyIsBounded(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(seed)
	}
	stopped, ran := 0, 0
	f.Fuzz(func(t *testing.T, seed uint64) {
		l := hostilePolicy(rand.New(rand.NewPCG(seed, 3)))
		c, err := compile(&l)
		if err != nil {
			if !errors.Is(err, ErrCompile) && !errors.Is(err, ErrBudget) {
				t.Fatal(err)
			}
			return
		}
		in := triggered()
		value, err := in.value()
		if err != nil {
			t.Fatal(err)
		}
		m := newMeter(context.Background(), time.Hour) // steps alone must end it
		_, _ = c.kinds[Connect].query.ask(context.Background(), value, m)
		ran++
		if m.why != "" {
			stopped++
		}
		// One call is charged before it is made, and what unwinds is asked a few times more.
		if most := MaxSteps + MaxValues; m.steps > most {
			t.Fatalf("%d steps, at most %d\n%s", m.steps, most, l.Modules["connect.rego"])
		}
		if d := engine(t, Config{Deadline: time.Hour}, l).Decide(t.Context(), in); m.why != "" && (d.Allow || d.Rule != RuleError || !strings.Contains(d.Reason, "steps")) {
			t.Fatalf("%s", d.Explain())
		}
	})
	if ran > 0 && stopped < 5 {
		f.Errorf("of %d hostile policies only %d had to be stopped: they are not hostile", ran, stopped)
	}
}

// What shows in a policy's own tests, or for the largest input, is refused with the rule's name.
func TestBudgetAtActivation(t *testing.T) {
	slow := "deny contains \"slow\" if {\n\tinput.service.name == \"web\"\n\tsome a in input.source.path\n\tsome b in input.source.path\n\tsome c in input.source.path\n\ta == concat(b, [c, c])\n}"
	helper := "allow contains \"yes\" if true\ndeny contains \"slow\" if searched\nsearched if {\n\tsome a in data.n\n\tsome b in data.n\n\tsome c in data.n\n\ta + b + c < 0\n}"
	golden := level(Global, Connect, "deny contains \"slow\" if {\n\tinput.source.zone == concat(\"\", [\"z\", \"1\"])\n\tsome a in data.n\n\tsome b in data.n\n\ta + b < 0\n}")
	golden.Modules["connect_test.rego"] = "package bailiwick.global.connect_test\n\nimport rego.v2\n\ngood := {\"v\": 1, \"kind\": \"connect\", \"time\": {\"unix\": 1, \"trusted\": true}, \"source\": {\"zone\": \"z1\"}}\n\ntest_good if good.v == 1\n"
	var n []any
	for i := range 2000 {
		n = append(n, i)
	}
	for name, tt := range map[string]struct {
		l     Level
		rule  string
		input string
	}{
		"behind an equality":  {level(Global, Connect, slow), "global/connect.rego:9", "largest input"},
		"in a helper":         {level(Global, Connect, helper), "searched", "largest input"},
		"for a test's input":  {golden, "rule deny", "good of global/connect_test.rego"},
		"of a regional level": {level(Regional, Connect, slow), "regional/connect.rego:9", "largest input"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.l.Data = map[string]any{"n": n}
			err := New(Config{}).Activate(tt.l)
			if !errors.Is(err, ErrBudget) {
				t.Fatalf("got %v", err)
			}
			for _, want := range []string{tt.rule, tt.input, fmt.Sprint(MaxSteps), "look up by key"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			tt.l.Measured = true
			if err := New(Config{Require: []string{tt.l.Name}}).Activate(tt.l); err != nil {
				t.Errorf("one that was measured before: %v", err)
			}
			if _, err := Costs(tt.l); !errors.Is(err, ErrBudget) {
				t.Errorf("costs of one that was measured before: %v", err)
			}
		})
	}
	costs, err := Costs(reference()[0])
	if err != nil || len(costs) != 1 || costs[0].Steps == 0 || costs[0].Steps > 100 {
		t.Errorf("the reference costs %+v, %v", costs, err)
	}
}

// The same decision takes the same steps every time, on any machine: a denial for want of steps
// replays.
func TestStepsAreDeterministic(t *testing.T) {
	l := hostilePolicy(rand.New(rand.NewPCG(1, 3)))
	l.Modules["connect.rego"] = module(Global, Connect, "allow contains \"yes\" if {\n\tinput.source.zone == concat(\"\", [\"trig\", \"ger\"])\n\tcount([1 | some a in data.n; a > 10; startswith(input.source.labels.long, \"x\")]) > 2\n}")
	c, err := compile(&l)
	if err != nil {
		t.Fatal(err)
	}
	in := triggered()
	value, _ := in.value()
	steps := map[int]bool{}
	for range 5 {
		m := newMeter(context.Background(), time.Hour)
		_, _ = c.kinds[Connect].query.ask(context.Background(), value, m)
		steps[m.steps] = true
	}
	if len(steps) != 1 {
		t.Errorf("steps %v", steps)
	}
}

// The functions that look at no deadline cannot be called, or are charged for what they are given.
func TestFunctionsThatIgnoreDeadlines(t *testing.T) {
	for name, rule := range map[string]string{
		"bits.lsh":              `deny contains "no" if bits.lsh(1, 2000000000) > 0`,
		"graph.reachable_paths": `deny contains "no" if count(graph.reachable_paths({}, [])) > 0`,
		"the pattern":           `deny contains "no" if regex.match("(a?){500}b", input.source.zone)`,
		"the number":            `deny contains "no" if input.time.unix > 1e999`,
	} {
		if err := New(Config{}).Activate(level(Global, Connect, rule)); !errors.Is(err, ErrSandbox) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name := range costs {
		if !strings.Contains(" "+strings.Join(Builtins(Global), " ")+" ", " "+name+" ") {
			t.Errorf("%s is charged and cannot be called", name)
		}
	}
	l := level(Global, Connect, `allow contains "yes" if true`)
	l.Data = map[string]any{"n": make([]any, MaxValues)}
	if err := New(Config{}).Activate(l); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many values: %v", err)
	}
}
