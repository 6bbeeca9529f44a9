package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const publishedIn = "../docs/policy"

// The schemas and the page of docs/policy say what the code says.
func TestPublished(t *testing.T) {
	files := map[string][]byte{"inputs.md": page(t)}
	for _, kind := range Kinds {
		b, err := KindSchema(kind)
		if err != nil {
			t.Fatal(err)
		}
		files[string(kind)+".schema.json"] = b
	}
	for name, want := range files {
		path := filepath.Join(publishedIn, name)
		if os.Getenv("BAILIWICK_UPDATE") != "" {
			if err := os.MkdirAll(publishedIn, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is out of date (%v): run BAILIWICK_UPDATE=1 go test ./policy", path, err)
		}
	}
}

// page is the schemas for people.
func page(t *testing.T) []byte {
	var b strings.Builder
	b.WriteString(`# What policy is asked

Each kind of decision has an input of its own. It is closed: a rule that names a field which its kind does not have
does not load, and the error has the file, the line and the fields there are. An input is complete, so a recorded
decision can be replayed anywhere. A field that does not apply is absent; numbers, booleans and what is marked *always*
are there whenever the part that holds them is.

` + "`bailiwick policy check --schema KIND`" + ` prints the same as JSON Schema (2020-12) without a network. This page and
the schemas beside it are generated from ` + "`policy/input.go`: `BAILIWICK_UPDATE=1 go test ./policy`" + `.

| kind | asks | schema |
|---|---|---|
`)
	for _, kind := range Kinds {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | [%s.schema.json](%s.schema.json) |\n", kind, kind, shapes[kind].asks, kind, kind)
	}
	for _, kind := range Kinds {
		raw, err := KindSchema(kind)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s", kind, shapes[kind].asks)
		if rule := valueRules[kind]; rule != "" {
			fmt.Fprintf(&b, " Each allow comes with `%s[\"its-id\"] := {%s}`.", rule, strings.Join(valueFields[rule], ", "))
		}
		b.WriteString("\n\n| field of `input` | type | meaning |\n|---|---|---|\n")
		rows(&b, "", doc)
	}
	return []byte(b.String())
}

func rows(b *strings.Builder, prefix string, schema map[string]any) {
	props, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range slices.Sorted(maps.Keys(props)) {
		p := props[name].(map[string]any)
		is, _ := p["description"].(string)
		if slices.Contains(required, any(name)) {
			is = strings.TrimSuffix("*always*; "+is, "; ")
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, typeName(p), strings.ReplaceAll(is, "|", `\|`))
		if items, ok := p["items"].(map[string]any); ok {
			p = items
		}
		rows(b, prefix+name+".", p)
	}
}

func typeName(p map[string]any) string {
	if c, ok := p["const"]; ok {
		return fmt.Sprintf("`%v`", c)
	}
	if one, ok := p["enum"].([]any); ok {
		return fmt.Sprintf("one of %v", one)
	}
	switch {
	case p["type"] == "array":
		return "list of " + typeName(p["items"].(map[string]any))
	case p["type"] == "object" && p["additionalProperties"] != nil && p["additionalProperties"] != false:
		return "map to " + typeName(p["additionalProperties"].(map[string]any))
	}
	return fmt.Sprint(p["type"])
}
