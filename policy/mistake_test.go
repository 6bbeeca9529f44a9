package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each mistake says where it is, what is wrong and what was meant.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ name, level, rules, message, fix, under string }{
		{"field", Global, `deny contains "no" if input.source.spifeid == "x"`, "input.source has no field spifeid", "did you mean spiffe_id?", "spifeid"},
		{"field under not", Global, `deny contains "no" if not input.source.attestation.okk`, "has no field okk", "did you mean ok?", "okk"},
		{"field of a local name", Global, "deny contains \"no\" if {\n\tpeer := input.source\n\tpeer.zoen == \"a\"\n}", "has no field zoen", "did you mean zone?", "zoen"},
		{"field like nothing", Global, `deny contains "no" if input.action.colour == "x"`, "input.action has no field colour", "want one of name", "colour"},
		{"function", Global, `deny contains "no" if startwith(input.source.zone, "x")`, "there is no function startwith", "did you mean startswith?", "startwith"},
		{"network", Global, `deny contains "no" if http.send({"url": "http://x"})`, "http.send is not among the functions of level global", "a decision asks nobody", "http.send"},
		{"clock", Global, `deny contains "no" if time.now_ns() > 0`, "time.now_ns is not among", "input.time.unix", "time.now_ns"},
		{"not the network", Global, `deny contains "no" if not http.send({"url": "http://x"})`, "http.send is not among", "a decision asks nobody", "http.send"},
		{"chance", Global, `deny contains "no" if rand.intn("a", 2) == 0`, "rand.intn is not among", "a recorded decision gives the same answer again", "rand.intn"},
		{"local pattern", Local, `deny contains "no" if regex.match("a", input.source.zone)`, "regex.match is not among the functions of level local", "startswith", "regex.match"},
		{"pattern from input", Global, `deny contains "no" if regex.match(input.source.zone, "x")`, "must be a constant", "write the pattern itself", "regex.match"},
		{"name", Global, "deny contains \"no\" if trused\ntrusted if input.time.trusted", "nothing gives trused a value", "did you mean trusted?", "trused"},
		{"rule name", Global, "dney contains \"no\" if input.v == 1", "used by no deny, allow or grant", "did you mean deny?", "dney"},
		{"types", Global, `deny contains "no" if input.time.trusted == "yes"`, "can never be equal", "one type", "input.time.trusted"},
		{"v0", Global, `deny["no"] { true }`, "`if` keyword is required", `deny contains "some-id" if`, `deny["no"]`},
		{"brace", Global, "deny contains \"no\" if {\n\tinput.v == 1", "unexpected eof", "never closed", ""},
		{"unused", Global, "deny contains \"no\" if {\n\tx := input.v\n}", "x unused", "take it out", "x := input.v"},
		{"recursion", Global, "deny contains \"no\" if a\na if b\nb if a", "recursive", "part of its own condition", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := compile(&[]Level{level(tt.level, Connect, tt.rules)}[0])
			for _, m := range Mistakes(err) {
				if strings.Contains(m.Message, tt.message) && strings.Contains(m.Fix, tt.fix) {
					lines := strings.Split(m.Snippet(), "\n")
					if m.Line == 0 || len(lines) != 2 {
						t.Fatalf("no place: %v\n%s", m, m.Snippet())
					}
					if at := strings.Index(lines[0], tt.under); tt.under != "" && !strings.HasPrefix(lines[1][max(at, 0):], "^") {
						t.Errorf("the caret is not under %s\n%s", tt.under, m.Snippet())
					}
					return
				}
			}
			t.Errorf("no mistake %q with %q in\n%v", tt.message, tt.fix, err)
		})
	}
}

func TestMistakesWithoutRules(t *testing.T) {
	for _, tt := range []struct{ name, source, message, fix string }{
		{"kind", "package bailiwick.global.conect\nimport rego.v2\n", "level global has no package bailiwick.global.conect", "did you mean bailiwick.global.connect?"},
		{"level", "package bailiwick.regional.connect\nimport rego.v2\n", "level global has no package bailiwick.regional.connect", "did you mean bailiwick.global.connect?"},
		{"v2", "package bailiwick.global.connect\nallow contains \"a\" if true\n", "package bailiwick.global.connect does not import rego.v2", `add the line "import rego.v2"`},
		{"metadata", "package bailiwick.global.connect\nimport rego.v2\nallow contains \"a\" if true\n", `allow "a" has no title and no owner`, "# METADATA"},
		{"import", "package bailiwick.global.connect\nimport rego.v2\n# METADATA\n# title: A\n# labels:\n#   owner: us\nallow contains \"a\" if connect.x\n", "nothing gives connect a value", `add the line "import data.bailiwick.global.connect"`},
		{"owner", "package bailiwick.global.connect\nimport rego.v2\n# METADATA\n# title: A\nallow contains \"a\" if true\n", `allow "a" has no owner`, "# METADATA"},
	} {
		err := Check(Level{Name: Global, Modules: map[string]string{"connect.rego": tt.source}})
		found := false
		for _, m := range Mistakes(err) {
			found = found || m.Message == tt.message && strings.Contains(m.Fix, tt.fix) && m.File == "global/connect.rego" && m.Snippet() != ""
		}
		if !found {
			t.Errorf("%s: no %q with %q in\n%v", tt.name, tt.message, tt.fix, err)
		}
	}
}

// All of them are told at once, in the order of the files.
func TestAllMistakesAtOnce(t *testing.T) {
	l := Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{
		"a.rego": "package bailiwick.global.connect\nimport rego.v2\n\ndney contains \"x\" if true\n\n\tdeny contains \"y\" if input.sorce\n",
		"b.rego": "package bailiwick.global.conect\n",
		"c.rego": "package bailiwick.global.lib\nimport rego.v2\nf(x) if time.now_ns() > x\n",
	}, Schemas: map[string]string{"schemas/a.json": `{`}}
	err := New(Config{}).Activate(l)
	list := Mistakes(err)
	var got []string
	for _, m := range list {
		got = append(got, fmt.Sprintf("%s:%d:%d %s", m.File, m.Line, m.Column, m.Message))
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"a.rego:6:2 deny \"y\" has no title", "b.rego:1:1 level global has no package", "c.rego:3:9 time.now_ns"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	for _, is := range []error{ErrRule, ErrPackage, ErrRegoV2, ErrSandbox} {
		if !errors.Is(err, is) {
			t.Errorf("no %v in %v", is, err)
		}
	}
	if !strings.Contains(err.Error(), "schemas/a.json") {
		t.Errorf("the schema's mistake is not told: %v", err)
	}
	// The field of a.rego is found once what hides it is mended.
	l.Modules["a.rego"] = strings.Replace(l.Modules["a.rego"], "dney contains \"x\" if true\n", "", 1)
	delete(l.Modules, "c.rego")
	if err := New(Config{}).Activate(l); !strings.Contains(err.Error(), "input has no field sorce; did you mean source?") {
		t.Errorf("%v", err)
	}
}

// OPA ends at the first statement that does not parse and at the first stage with an error; its
// authors are told all of them, and none that only follows from another.
func TestMistakesOfAllStages(t *testing.T) {
	rule := func(id, body string) string {
		return "# METADATA\n# title: T\n# labels:\n#   owner: us\ndeny contains \"" + id + "\" if {\n\t" + body + "\n}\n\n"
	}
	head := "package bailiwick.global.connect\n\nimport rego.v2\n\n"
	l := Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{
		"a.rego":      head + rule("open", "input.v == 1\n\tinput.v == )") + rule("a1", "input.source.spifeid") + "f(x) := y if {\n\ty := input.sorce[x]\n}\n\nh if {\n\tinput.v ==\n}\n\n" + rule("a2", "f(1) == h\n\ttrused"),
		"b.rego":      head + rule("b1", `startwith("a", "b")`) + rule("b2", `input.time.trusted == "yes"`) + rule("b3", "x := 1") + rule("b4", "f(2)\n\th\n\tinput.nothing"),
		"c.rego":      head + rule("unclosed", "input.v == 1\n\tcount([1) == 1") + "# METADATA\n# title: T\n# labels:\n#   owner: us\ndeny contains \"c1\" if {\n\tinput.v == 1\n\n" + rule("c2", "input.actoin"),
		"c_test.rego": "package bailiwick.global.connect_test\n\nimport rego.v2\n\nimport data.bailiwick.global.connect\n\ntest_a if connect.dney == set()\n\ntest_b if {\n",
	}}
	var got []string
	for _, m := range Mistakes(Check(l)) {
		if m.Snippet() == "" {
			t.Errorf("%v does not show its line", m)
		}
		got = append(got, fmt.Sprintf("%s:%d %s", strings.TrimPrefix(m.File, "global/"), m.Line, m.Message))
	}
	want := []string{
		"a.rego:11 unexpected", "a.rego:19 input.source has no field spifeid", "a.rego:23 input has no field sorce", "a.rego:28 unexpected", "a.rego:36 nothing gives trused a value",
		"b.rego:10 there is no function startwith", "b.rego:18 the two sides can never be equal", "b.rego:26 assigned var x unused", "b.rego:36 input has no field nothing",
		"c.rego:11 unexpected", "c.rego:19 unexpected eof", "c.rego:26 input has no field actoin",
		"c_test.rego:7 data.bailiwick.global.connect has no rule or package dney", "c_test.rego:9 unexpected eof",
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("mistake %d of %d:\n%s\nwant\n%s", i, len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// What is told is not quoted twice.
func TestTwoRulesOfOneID(t *testing.T) {
	src := "package bailiwick.global.connect\nimport rego.v2\n# METADATA\n# title: A\n# labels:\n#   owner: us\nallow contains \"a-1\" if true\n# METADATA\n# title: A\n# labels:\n#   owner: us\nallow contains \"a-1\" if input.v == 1\n"
	list := Mistakes(Check(Level{Name: Global, Modules: map[string]string{"connect.rego": src}}))
	if len(list) != 1 || !strings.HasPrefix(list[0].Message, `the id "a-1" is also at global/connect.rego:`) {
		t.Errorf("got %v", list)
	}
}

// A module that is nothing but mistakes is refused in a moment.
func TestManyMistakesTakeNoLongTime(t *testing.T) {
	head := "package bailiwick.global.connect\n\nimport rego.v2\n\n"
	for name, src := range map[string]string{
		"statements": head + strings.Repeat("a if )\n\n", 100_000),
		"imports":    "package bailiwick.global.connect\n\n" + strings.Repeat("import data.a\n\n", 50_000) + "a if )\n",
		"chain":      head + "r0 if nothing\n\n" + strings.Repeat("r1 if r0\n\n", 900),
	} {
		start := time.Now()
		err := Check(Level{Name: Global, Modules: map[string]string{"connect.rego": src}})
		if took := time.Since(start); err == nil || took > 20*time.Second {
			t.Errorf("%s: %v after %v", name, err != nil, took)
		}
	}
}
