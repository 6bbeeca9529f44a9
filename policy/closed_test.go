package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// Each field that can be some values only takes those, and its schema says so.
func TestClosedFields(t *testing.T) {
	for _, f := range closedFields() {
		name := strings.Join(f.path, ".")
		for _, value := range append([]string{"nonesuch"}, f.values...) {
			if name == "kind" && value != "nonesuch" {
				continue // every other kind lacks a part
			}
			err := parseWith(t, f.path, value)
			if refused := errors.Is(err, ErrInput) && strings.Contains(err.Error(), "not one of") || err != nil && strings.Contains(err.Error(), name+" is "); refused != (value == "nonesuch") {
				t.Errorf("%s = %q: %v", name, value, err)
			}
		}
		schema := schemaDoc()
		for _, step := range f.path {
			schema = schema["properties"].(map[string]any)[step].(map[string]any)
		}
		if items, ok := schema["items"].(map[string]any); ok {
			schema = items
		}
		if enum, _ := schema["enum"].([]string); len(enum) != len(f.values) {
			t.Errorf("%s: the schema has %v, want %v", name, schema["enum"], f.values)
		}
	}
	if err := parseWith(t, []string{"source", "standing"}, "quarantine"); err == nil || !strings.Contains(err.Error(), "did you mean quarantined?") {
		t.Errorf("got %v", err)
	}
}

// parseWith parses an input that has one value at a path, and the parts that its kind needs.
func parseWith(t *testing.T, path []string, value any) error {
	t.Helper()
	doc := map[string]any{"v": 1, "kind": "connect", "time": map[string]any{"unix": 1}, "source": map[string]any{}, "action": map[string]any{"name": "link"}}
	switch path[0] {
	case "call":
		delete(doc, "action")
		doc["kind"] = "admin"
	case "attest":
		delete(doc, "action")
		doc["kind"] = "attest"
	}
	if path[len(path)-1] == "roles" {
		value = []any{value}
	}
	at := doc
	for _, step := range path[:len(path)-1] {
		if at[step] == nil {
			at[step] = map[string]any{}
		}
		at = at[step].(map[string]any)
	}
	at[path[len(path)-1]] = value
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseInput(b)
	return err
}
