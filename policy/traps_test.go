package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	goast "go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

func parseValue(t *testing.T, b []byte) ast.Value {
	t.Helper()
	v, err := ast.ValueFromReader(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// validate checks a document against the part of JSON Schema that Schema uses.
func validate(s map[string]any, b []byte) error {
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		return err
	}
	return validateAny(s, doc, "input")
}

func validateAny(s map[string]any, doc any, at string) error {
	if want, ok := s["const"]; ok {
		if fmt.Sprint(want) != fmt.Sprint(doc) {
			return fmt.Errorf("%s is %v, want %v", at, doc, want)
		}
		return nil
	}
	if list, ok := s["required"].([]any); ok { // of a parsed schema
		for _, name := range list {
			if _, ok := doc.(map[string]any)[name.(string)]; !ok {
				return fmt.Errorf("%s lacks %v", at, name)
			}
		}
	}
	kinds := map[string]string{"object": "map[string]interface {}", "array": "[]interface {}", "string": "string", "boolean": "bool", "integer": "float64"}
	if want := kinds[s["type"].(string)]; doc != nil && reflect.TypeOf(doc).String() != want {
		return fmt.Errorf("%s is a %T, want %v", at, doc, s["type"])
	}
	switch doc := doc.(type) {
	case map[string]any:
		props, _ := s["properties"].(map[string]any)
		for k, v := range doc {
			sub, ok := props[k].(map[string]any)
			if !ok {
				if sub, ok = s["additionalProperties"].(map[string]any); !ok {
					if s["additionalProperties"] == false {
						return fmt.Errorf("%s.%s is unknown", at, k)
					}
					continue
				}
			}
			if err := validateAny(sub, v, at+"."+k); err != nil {
				return err
			}
		}
	case []any:
		for _, v := range doc {
			if err := validateAny(s["items"].(map[string]any), v, at+"[]"); err != nil {
				return err
			}
		}
	}
	return nil
}

// Every refusal names the file and line, and says what to do.
func TestRefusals(t *testing.T) {
	ok := module(Global, Connect, `allow contains "yes" if true`)
	tests := []struct {
		name string
		l    Level
		err  error
		text string
	}{
		{"no rego.v2", Level{Name: Global, Modules: map[string]string{"a.rego": strings.Replace(ok, "import rego.v2\n", "", 1)}}, ErrRegoV2, "global/a.rego"},
		{"rego.v1 only", Level{Name: Global, Modules: map[string]string{"a.rego": strings.Replace(ok, "rego.v2", "rego.v1", 1)}}, ErrRegoV2, "global/a.rego"},
		{"another level's package", Level{Name: Regional, Modules: map[string]string{"a.rego": ok}}, ErrPackage, "bailiwick.regional"},
		{"unknown kind", Level{Name: Global, Modules: map[string]string{"a.rego": strings.Replace(ok, "global.connect", "global.conect", 1)}}, ErrPackage, "conect"},
		{"package test in a serving file", Level{Name: Global, Modules: map[string]string{"a.rego": strings.Replace(ok, "global.connect", "global.connect_test", 1)}}, ErrPackage, "_test"},
		{"misspelt input field", level(Global, Connect, `deny contains "no" if input.source.spifeid == "x"`), ErrCompile, "spifeid"},
		{"misspelt field under not", level(Global, Connect, `deny contains "no" if not input.source.attestation.okk`), ErrCompile, "okk"},
		{"wrong type", level(Global, Connect, `deny contains "no" if input.source.attestation.ok == "yes"`), ErrCompile, "global/connect.rego:9"},
		{"misspelt deny", level(Global, Connect, `dney contains "no" if true`), ErrRule, "dney"},
		{"http.send", level(Global, Connect, `deny contains "no" if http.send({"url": "http://x"})`), ErrSandbox, "http.send"},
		{"clock", level(Global, Connect, `deny contains "no" if time.now_ns() > 0`), ErrSandbox, "time.now_ns"},
		{"random", level(Global, Connect, `deny contains "no" if rand.intn("a", 2) == 0`), ErrSandbox, "rand.intn"},
		{"shift", level(Global, Connect, `deny contains "no" if bits.lsh(1, 2000000000) > 0`), ErrSandbox, "bits.lsh"},
		{"graph", level(Global, Connect, `deny contains "no" if count(graph.reachable_paths({}, [])) > 0`), ErrSandbox, "graph.reachable_paths"},
		{"template string", level(Global, Connect, `deny contains "no" if $"{input.source.spiffe_id}" == "x"`), ErrCompile, "template"},
		{"pattern from input", level(Global, Connect, `deny contains "no" if regex.match(input.source.zone, "x")`), ErrSandbox, "regex.match"},
		{"pattern from data in a term", level(Global, Connect, `deny contains "no" if {
			x := [1 | regex.match(data.p, "x")]
			count(x) > 0
		}`), ErrSandbox, "regex.match"},
		{"pattern nested", level(Global, Connect, `deny contains "no" if count([y | y := glob.match(input.source.zone, [], "x")]) > 0`), ErrSandbox, "glob.match"},
		{"local has no patterns", level(Local, Connect, `deny contains "no" if regex.match("a", "x")`), ErrSandbox, "regex.match"},
		{"with", level(Global, Connect, `deny contains "no" if helper with input.source.zone as "x"
		helper if input.source.zone == "x"`), ErrSandbox, "with"},
		{"complete rule", level(Global, Connect, `deny if true`), ErrRule, "contains"},
		{"default", level(Global, Connect, `default allow := true`), ErrRule, "contains"},
		{"computed id", level(Global, Connect, `deny contains input.source.spiffe_id if true`), ErrRule, "constant"},
		{"one id twice", level(Global, Connect, "deny contains \"no\" if true\ndeny contains \"no\" if input.v == 1"), ErrRule, "also at global/connect.rego"},
		{"no title", Level{Name: Global, Modules: map[string]string{"a.rego": "package bailiwick.global.connect\nimport rego.v2\ndeny contains \"no\" if true\n"}}, ErrRule, "title"},
		{"allow without grant", level(Global, StateAdmit, `allow contains "yes" if true`), ErrRule, "grant"},
		{"two grants of one id", level(Global, StateAdmit, "allow contains \"a\" if true\ngrant[\"a\"] := 1 if true\ngrant[\"a\"] := 2 if input.v == 1"), ErrRule, "also at"},
		{"grant elsewhere", level(Global, Connect, "grant[\"a\"] := 1"), ErrRule, "does not belong to connect"},
		{"a field of another kind", level(Global, Connect, `deny contains "no" if not input.call.owner`), ErrCompile, "global/connect.rego:9: the input of kind connect has no field call"},
		{"allow without thresholds", level(Global, Quarantine, `allow contains "yes" if true`), ErrRule, "thresholds"},
		{"misspelt threshold", level(Global, Quarantine, "allow contains \"a\" if true\nthresholds[\"a\"] := {\"cap_percents\": 5}"), ErrRule, "cap_percents"},
		{"another level by data", level(Regional, Connect, `allow contains "x" if data.bailiwick.global.connect.allow`), nil, ""},
		{"syntax", level(Global, Connect, `deny contains "no" if {`), ErrCompile, "global/connect.rego"},
		{"unknown level", Level{Name: "galactic"}, ErrLevel, "galactic"},
		{"path", Level{Name: Global, Modules: map[string]string{"../a.rego": ok}}, ErrLevel, "../a.rego"},
		{"reserved data", Level{Name: Global, Data: map[string]any{"bailiwick": 1}}, ErrLevel, "bailiwick"},
		{"large data", Level{Name: Global, Data: map[string]any{"a": strings.Repeat("x", MaxData)}}, ErrTooLarge, "data"},
		{"large source", Level{Name: Global, Modules: map[string]string{"a.rego": ok + strings.Repeat("#", MaxSource)}}, ErrTooLarge, "bytes"},
		{"many rules", level(Global, Connect, strings.Repeat("x if true\n", MaxRules+1)), ErrTooLarge, "rules"},
		{"empty module", Level{Name: Global, Modules: map[string]string{"a.rego": "# nothing\n"}}, ErrCompile, "a.rego"},
	}
	// These would not be refused but run, for hours: that they are not there is told first.
	for _, name := range []string{"bits.lsh", "graph.reachable_paths", "numbers.range", "net.cidr_expand", "walk", "http.send"} {
		if slices.Contains(Builtins(Global), name) {
			t.Fatalf("policies may call %s", name)
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.l.Delegation.All = true
			err := New(Config{}).Activate(tt.l)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
		})
	}
}

// Trap: in Rego v1 the negation of a call with an undefined argument is undefined, and the deny is
// silently off.
func TestNegationOfUndefinedDenies(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "yes" if true
	deny contains "not-permitted" if not permitted(input.destination.roles)
	permitted(roles) if count(roles) >= 0`))
	if d := e.Decide(t.Context(), connect()); d.Allow || d.Rule != "not-permitted" {
		t.Errorf("an absent destination is allowed: %s", d.Explain())
	}
}

// Trap: OPA keys modules by file name and drops one of two of the same name, with its denies.
func TestSameFileNameKeepsBothModules(t *testing.T) {
	l := Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{
		"a/authz.rego": module(Global, Connect, `deny contains "first" if input.source.zone == "a"`),
		"b/authz.rego": module(Global, Connect, `deny contains "second" if input.source.zone == "b"`),
		"authz.rego":   module(Global, Connect, `allow contains "yes" if true`),
	}}
	e := engine(t, Config{}, l)
	for zone, want := range map[string]string{"a": "first", "b": "second", "c": "yes"} {
		in := connect()
		in.Source.Zone = zone
		if d := e.Decide(t.Context(), in); d.Rule != want {
			t.Errorf("zone %s: %s", zone, d.Explain())
		}
	}
}

// Trap: combining levels in Rego allows when a level is absent or reads another's verdict.
func TestLevelsCannotSeeEachOther(t *testing.T) {
	reg := level(Regional, Connect, `allow contains "copy" if data.bailiwick.global.connect.allow["yes"]
	allow contains "blind" if not data.bailiwick.global.connect.deny["no"]`)
	reg.Delegation = Delegation{Kinds: []Kind{Connect}, Regions: []string{"east"}}
	e := engine(t, Config{}, level(Global, Connect, `deny contains "no" if true`), reg)
	d := e.Decide(t.Context(), connect())
	if d.Allow || d.Rule != "no" {
		t.Errorf("got %s", d.Explain())
	}
	if len(d.Verdicts[1].Rules) != 1 || d.Verdicts[1].Rules[0].ID != "blind" {
		t.Errorf("regional saw global: %s", d.Explain())
	}
}

// Trap: two values for one complete rule compile, and conflict only when both hold.
func TestConflictDenies(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "yes" if limit > 0
	limit := 1 if input.service.name == "web"
	limit := 2 if input.service.port == 8080`))
	if d := e.Decide(t.Context(), connect()); d.Allow || d.Rule != RuleError {
		t.Errorf("got %s", d.Explain())
	}
}

// Trap: METADATA may name another schema for input, which would switch off the type check.
func TestMetadataCannotReplaceTheSchema(t *testing.T) {
	src := "package bailiwick.global.connect\nimport rego.v2\n# METADATA\n# title: t\n# labels:\n#   owner: o\n# schemas:\n#   - input: {type: object}\ndeny contains \"no\" if input.source.spifeid == \"x\"\n"
	if err := New(Config{}).Activate(Level{Name: Global, Modules: map[string]string{"a.rego": src}}); !errors.Is(err, ErrCompile) {
		t.Errorf("got %v", err)
	}
}

// Trap: some functions ignore deadlines. What is left must be short whatever it is given.
func TestNothingRunsLong(t *testing.T) {
	doubling := func(fn string) string {
		var b strings.Builder
		b.WriteString("deny contains \"big\" if {\n x0 := input.source.zone\n")
		for i := range 60 {
			fmt.Fprintf(&b, " x%d := %s\n", i+1, fmt.Sprintf(fn, i, i))
		}
		b.WriteString(" x60 == \"\"\n}\nallow contains \"yes\" if true")
		return b.String()
	}
	in := connect()
	in.Source.Zone = strings.Repeat("a", MaxString)
	for name, body := range map[string]string{
		"concat": doubling(`concat("", [x%d, x%d])`),
		"concat with a long separator": `allow contains "yes" if true
			deny contains "big" if concat(input.source.zone, [x | some x in split(input.source.zone, "")]) == ""`,
		"regex": `deny contains "big" if regex.match("(a?){500}b", input.source.zone)`,
		"glob":  `deny contains "big" if glob.match("*a*a*a*a*a*a*a*a*a*a*a*b", [], input.source.zone)`,
		"number": "deny contains \"big\" if {\n x0 := 1e999999\n" + func() (s string) {
			for i := range 60 {
				s += fmt.Sprintf(" x%d := x%d + x%d\n", i+1, i, i)
			}
			return
		}() + " x60 == 1\n}",
		"compare": `deny contains "big" if input.time.unix > 1e999999999`,
		"cidr":    `deny contains "big" if net.cidr_contains("0.0.0.0/0", "10.0.0.0/8")`,
		"split":   `deny contains "big" if count(split(input.source.zone, "")) == 1`,
	} {
		t.Run(name, func(t *testing.T) {
			e := New(Config{Deadline: 50 * time.Millisecond})
			if err := e.Activate(level(Global, Connect, body)); err != nil {
				t.Logf("refused: %v", err)
				return
			}
			start := time.Now()
			d := e.Decide(t.Context(), in)
			if took := time.Since(start); took > 30*time.Second { // what has no bound takes years
				t.Errorf("took %v", took)
			}
			if d.Allow {
				t.Error("allowed")
			}
		})
	}
}

// Trap: compiled to wasm, OPA sees no data in a store that gives out parsed values; and partial
// evaluation of a policy with a table takes minutes, whatever its context says. Neither is used.
func TestNeitherWasmNorPartialEvaluation(t *testing.T) {
	never := []string{"Target", "Compile", "Partial", "PartialResult", "PrepareForPartial", "PartialEval", "PartialRun", "PartialIter", "WithPartialEval", "LoadBundle", "Schemas"}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		asks := false
		for _, i := range f.Imports {
			if strings.Contains(i.Path.Value, "wasm") || strings.Contains(i.Path.Value, "opa/v1/sdk") || strings.Contains(i.Path.Value, "opa/v1/compile") {
				t.Errorf("%s imports %s", path, i.Path.Value)
			}
			asks = asks || strings.HasSuffix(i.Path.Value, `opa/v1/rego"`) || strings.HasSuffix(i.Path.Value, `opa/v1/topdown"`)
		}
		if !asks {
			return nil
		}
		goast.Inspect(f, func(n goast.Node) bool {
			if s, ok := n.(*goast.SelectorExpr); ok && slices.Contains(never, s.Sel.Name) {
				if x, ok := s.X.(*goast.Ident); ok && x.Name == "rego" || s.Sel.Name[0] == 'P' {
					t.Errorf("%s uses %s", path, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]any{}
	var rules strings.Builder
	for i := range 1000 {
		nodes[fmt.Sprintf("spiffe://east.example.org/node/n%d", i)] = map[string]any{"zone": fmt.Sprintf("z%d", i%100)}
	}
	for i := range 100 {
		fmt.Fprintf(&rules, "zone contains \"z%d\" if data.nodes[input.source.spiffe_id].zone == \"z%d\"\n\n", i, i)
	}
	l := level(Global, Connect, "allow contains \"yes\" if \"z7\" in zone\n\n"+rules.String())
	l.Data = map[string]any{"nodes": nodes}
	start := time.Now()
	e := engine(t, Config{}, l)
	in := connect()
	for id, want := range map[string]bool{"n7": true, "n107": true, "n8": false, "n1007": false} {
		in.Source.SPIFFEID = "spiffe://east.example.org/node/" + id
		if d := e.Decide(t.Context(), in); d.Allow != want {
			t.Errorf("%s: %s", id, d.Explain())
		}
	}
	if took := time.Since(start); took > 30*time.Second { // evaluated in part it takes minutes
		t.Errorf("took %v", took)
	}
}

// Trap: OPA panics when its store is given a number that is too large.
func TestHugeNumbersInData(t *testing.T) {
	l := level(Global, Connect, `allow contains "yes" if input.time.unix + data.n > 1`)
	l.Data = map[string]any{"n": json.Number("1e999999999")}
	if err := New(Config{}).Activate(l); !errors.Is(err, ErrLevel) || !strings.Contains(err.Error(), "data.n: the number 1e999999999 is too large") {
		t.Errorf("got %v", err)
	}
}

// A declared function that OPA does not have would be a typo in the allow-list.
func TestBuiltinsExist(t *testing.T) {
	for _, name := range Builtins(Global) {
		b := ast.BuiltinMap[name]
		if b == nil {
			t.Errorf("OPA has no %s", name)
		} else if b.Nondeterministic {
			t.Errorf("%s is not deterministic", name)
		}
	}
}

func TestSchemaIsClosed(t *testing.T) {
	var walk func(s map[string]any, at string)
	walk = func(s map[string]any, at string) {
		props, ok := s["properties"].(map[string]any)
		if ok && s["additionalProperties"] != false {
			t.Errorf("%s is open", at)
		}
		for k, p := range props {
			if k == "" {
				t.Errorf("%s has a field without a json tag", at)
			}
			walk(p.(map[string]any), at+"."+k)
		}
	}
	walk(schemaDoc(), "input")
	if !json.Valid(Schema()) {
		t.Error("Schema is not JSON")
	}
}
