package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/schema"
)

func withSchema(name, src string) Level {
	l := level(name, Connect, `allow contains "yes" if true`)
	l.Schemas = map[string]string{"schemas/a.json": src}
	return l
}

const numbers = `{"kind": "x-a", "version": 2, "since": "2026-11-21T00:00:00Z", "schema": {"type": "integer"}}`

func TestFits(t *testing.T) {
	since := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	small := `{"kind": "x-a", "prefix": "s", "version": 7, "schema": {"maximum": 9}}`
	e := engine(t, Config{}, withSchema(Global, numbers), withSchema(Regional, small))
	for _, tt := range []struct {
		kind, name, value string
		written           time.Time
		by                string
		ok, before        bool
	}{
		{"x-b", "s", `"words"`, since, "", true, false},
		{"x-a", "n", `12`, since, "global/schemas/a.json@2", true, false},
		{"x-a", "n", `"words"`, since, "global/schemas/a.json@2", false, false},
		{"x-a", "n", `"words"`, since.Add(-1), "global/schemas/a.json@2", false, true},
		{"x-a", "s", `12`, since, "regional/schemas/a.json@7", false, false}, // a lower level narrows
		{"x-a", "s", `9`, since, "global/schemas/a.json@2", true, false},
	} {
		f := e.Fits(tt.kind, tt.name, tt.written, []byte(tt.value))
		if f.Schema != tt.by || (f.Err == nil) != tt.ok || f.Before != tt.before || (f.Refused() == nil) != (tt.ok || tt.before) || !tt.ok && !errors.Is(f.Err, schema.ErrValue) {
			t.Errorf("%s/%s %s: %+v", tt.kind, tt.name, tt.value, f)
		}
		if f.Schema != "" && f.Revision != e.Revision() {
			t.Errorf("revision %q", f.Revision)
		}
	}
	if f := New(Config{}).Fits("x-a", "n", since, nil); f != (Fit{}) {
		t.Errorf("without policy: %+v", f)
	}
}

// A schema that does not compile leaves the generation in force, schemas and all; one that
// did not change is not compiled again.
func TestABrokenSchemaChangesNothing(t *testing.T) {
	good := withSchema(Global, numbers)
	e := engine(t, Config{}, good)
	before, set := e.Revision(), e.Schemas()[0]
	err := e.Activate(withSchema(Global, strings.Replace(numbers, `"integer"`, "\n\"$ref\"", 1)))
	if !errors.Is(err, schema.ErrSchema) || !strings.Contains(err.Error(), "global/schemas/a.json: line ") {
		t.Errorf("got %v", err)
	}
	if e.Revision() != before || e.Fits("x-a", "n", time.Now(), []byte(`"words"`)).Err == nil {
		t.Error("the schema in force is gone")
	}
	if err := e.Activate(good, level(Regional, Connect, `deny contains "no" if true`)); err != nil || e.Schemas()[0] != set {
		t.Errorf("compiled again: %v", err)
	}
	bad := withSchema(Global, numbers)
	bad.Schemas["../a.json"] = "{}"
	if err := e.Activate(bad); !errors.Is(err, ErrLevel) {
		t.Errorf("a path outside: %v", err)
	}
}
