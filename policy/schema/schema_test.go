package schema

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func file(kind, prefix string, body string) string {
	return fmt.Sprintf("{\"kind\": %q, \"prefix\": %q, \"version\": 1,\n\"schema\": %s}", kind, prefix, body)
}

func one(t testing.TB, body string) *Schema {
	t.Helper()
	set, err := Compile(map[string]string{"schemas/a.json": file("x-a", "", body)})
	if err != nil {
		t.Fatal(err)
	}
	return set.Find("x-a", "n")
}

const order = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"required": ["price", "id"],
	"additionalProperties": false,
	"properties": {
		"id": {"$ref": "#/$defs/id"},
		"price": {"type": "integer", "minimum": 0},
		"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": true, "maxItems": 4},
		"at": {"format": "date-time"}
	},
	"$defs": {"id": {"type": "string", "pattern": "^[a-z]+-[0-9]+$"}}
}`

func TestCheck(t *testing.T) {
	s := one(t, order)
	for _, tt := range []struct{ value, wrong string }{
		{`{"id": "a-1", "price": 3}`, ""},
		{`{"id": "a-1", "price": 3.0, "tags": ["x", "y"], "at": "2026-11-21T10:00:00Z"}`, ""},
		{`{"id": "a-1"}`, "price"},
		{`{"id": "A-1", "price": 3}`, "at '/id': "},
		{`{"id": "a-1", "price": -1}`, "at '/price': "},
		{`{"id": "a-1", "price": 3, "prize": 4}`, "prize"},
		{`{"id": "a-1", "price": 3, "tags": ["x", "x"]}`, "at '/tags': "},
		{`{"id": "a-1", "price": 3, "at": "yesterday"}`, "at '/at': "},
		{`{"id": "a-1", "price": 3, "price": 4}`, "twice"},
		{`{"id": "a-1", "price": 3} true`, "after the end"},
		{`{"id": "a-1", "price": 1e1000000000}`, "exponent"},
		{`{"id": "a-1", "price": ` + strings.Repeat("1", 100) + `}`, "characters"},
		{strings.Repeat("[", 100), "deep"},
		{"\xff", "UTF-8"},
		{``, "not JSON"},
	} {
		err := s.Check([]byte(tt.value))
		switch {
		case tt.wrong == "" && err != nil:
			t.Errorf("%s: %v", tt.value, err)
		case tt.wrong != "" && (!errors.Is(err, ErrValue) || !strings.Contains(err.Error(), tt.wrong) || !strings.Contains(err.Error(), "schemas/a.json@1")):
			t.Errorf("%.80s: %v, want %q", tt.value, err, tt.wrong)
		}
	}
}

// Whatever a schema may not say is refused when it is loaded, with the line.
func TestCompileRefuses(t *testing.T) {
	deep := `{"a": 1}`
	for range MaxDepth {
		deep = `{"not": ` + deep + `}`
	}
	wide := `{"allOf": [` + strings.Repeat(`{"type": "string"},`, MaxCost) + `true]}`
	doubling := `{"$ref": "#/$defs/d20", "$defs": {"d0": true`
	for i := range 20 {
		doubling += fmt.Sprintf(`, "d%d": {"allOf": [{"$ref": "#/$defs/d%d"}, {"$ref": "#/$defs/d%d"}]}`, i+1, i, i)
	}
	for name, tt := range map[string]struct{ src, want string }{
		"remote":               {file("x-a", "", "{\n\"$ref\": \"https://example.com/s.json\"}"), "line 3: $ref"},
		"file":                 {file("x-a", "", `{"$ref": "file:///etc/passwd"}`), "line 2: $ref"},
		"metaschema":           {file("x-a", "", `{"$ref": "https://json-schema.org/draft/2020-12/schema"}`), "nothing is fetched"},
		"remote dialect":       {file("x-a", "", `{"$schema": "https://example.com/dialect"}`), "$schema: want"},
		"id":                   {file("x-a", "", `{"$id": "https://example.com/"}`), `"$id" is none`},
		"misspelt":             {file("x-a", "", "{\"properties\": {\n\"a\": {\n\"requierd\": []}}}"), `line 4: "requierd" is none`},
		"dynamic":              {file("x-a", "", `{"$dynamicRef": "#x"}`), "is none"},
		"itself":               {file("x-a", "", `{"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}}`), "refers to itself"},
		"absent":               {file("x-a", "", `{"$ref": "#/$defs/a"}`), "there is no $defs/a"},
		"nested defs":          {file("x-a", "", `{"not": {"$defs": {}}}`), "at the top"},
		"unused and wrong":     {file("x-a", "", `{"$defs": {"a": {"tpye": 1}}}`), `"tpye"`},
		"backreference":        {file("x-a", "", `{"pattern": "(a)\\1"}`), "RE2"},
		"look-ahead":           {file("x-a", "", `{"patternProperties": {"(?=a)": true}}`), "RE2"},
		"long pattern":         {file("x-a", "", `{"pattern": "`+strings.Repeat("a", MaxPattern+1)+`"}`), "at most 256"},
		"format":               {file("x-a", "", `{"format": "regex"}`), "format"},
		"type":                 {file("x-a", "", `{"type": "strnig"}`), "the schema: "},
		"not a schema":         {file("x-a", "", `[]`), "want a schema"},
		"items of a list":      {file("x-a", "", `{"items": [true]}`), "want a schema"},
		"huge count":           {file("x-a", "", `{"maxLength": 1e300}`), "2^31"},
		"huge number":          {file("x-a", "", `{"multipleOf": 1e-1000000000}`), "exponent"},
		"deep":                 {file("x-a", "", deep), "deep"},
		"wide":                 {file("x-a", "", wide), "places"},
		"doubling":             {file("x-a", "", doubling+`}}`), "places"},
		"built-in kind":        {file("service", "", `true`), "kind: want x-"},
		"slash":                {file("x-a", "a/b", `true`), "prefix"},
		"no version":           {`{"kind": "x-a", "schema": true}`, "version is missing"},
		"unknown field":        {`{"kind": "x-a", "version": 1, "schema": true, "scehma": 1}`, `"scehma" is none of`},
		"version":              {`{"kind": "x-a", "version": 0, "schema": true}`, "version: want"},
		"since":                {`{"kind": "x-a", "version": 1, "since": "now", "schema": true}`, "since: want"},
		"twice":                {`{"kind": "x-a", "kind": "x-b", "version": 1, "schema": true}`, "twice"},
		"not JSON":             {"{\n\n,", "line 3"},
		"too large":            {strings.Repeat(" ", MaxFile+1), "at most"},
		"two mistakes, second": {file("x-a", "", "{\"tpye\": 1,\n\"$ref\": \"x\"}"), "line 3: $ref"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(map[string]string{"schemas/bad.json": tt.src})
			if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "schemas/bad.json: ") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	both := map[string]string{"schemas/1.json": file("x-a", "p", `true`), "schemas/2.json": file("x-a", "p", `false`)}
	if _, err := Compile(both); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "schemas/1.json") {
		t.Errorf("two of one key space: %v", err)
	}
}

func TestFind(t *testing.T) {
	set, err := Compile(map[string]string{
		"schemas/all.json": file("x-a", "", `true`), "schemas/eu.json": file("x-a", "eu-", `true`), "schemas/eu-west.json": file("x-a", "eu-west", `true`),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"n": "all", "eu": "all", "eu-1": "eu", "eu-west-1": "eu-west"} {
		if got := set.Find("x-a", name); got == nil || got.File != "schemas/"+want+".json" {
			t.Errorf("%s: %v", name, got)
		}
	}
	if len(set.All()) != 3 || set.Find("x-b", "eu-1") != nil || (*Set)(nil).Find("x-a", "n") != nil {
		t.Error("a schema of another kind was found")
	}
}

// The worst that both an author and a writer can do costs little.
func TestWorkIsBounded(t *testing.T) {
	s := one(t, `{"items": {"anyOf": [`+strings.Repeat(`{"pattern": "^(a|b|c)*d$"},`, 60)+`{"type": "integer"}]}}`)
	value := "[" + strings.TrimSuffix(strings.Repeat(`"abcabcab",`, 100), ",") + "]"
	if err := s.Check([]byte(value)); !errors.Is(err, ErrValue) {
		t.Error(err)
	}
	full := "[" + strings.TrimSuffix(strings.Repeat(`"abcabcab",`, MaxWork/s.cost-1), ",") + "]"
	start := time.Now()
	if err := s.Check([]byte(full)); !errors.Is(err, ErrValue) {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("%d places, %d bytes: %s", s.cost, len(full), took)
	}
	t.Logf("%d places, %d bytes: %s", s.cost, len(full), time.Since(start))
}

func FuzzCompile(f *testing.F) {
	f.Add(file("x-a", "", order))
	f.Add(file("x-a", "eu", `{"allOf": [{"if": {"const": 1}, "then": false}], "format": "uuid"}`))
	f.Fuzz(func(t *testing.T, src string) {
		set, err := Compile(map[string]string{"schemas/f.json": src})
		if err != nil {
			if !errors.Is(err, ErrSchema) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, list := range set.byKind {
			for _, s := range list {
				_ = s.Check([]byte(`{"id": "a-1", "price": [1, {"a": null}]}`))
			}
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"id": "a-1", "price": 3, "tags": ["x"]}`))
	s := one(f, order)
	f.Fuzz(func(t *testing.T, value []byte) {
		if err := s.Check(value); err != nil && !errors.Is(err, ErrValue) {
			t.Errorf("%v", err)
		}
	})
}
