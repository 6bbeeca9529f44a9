package jsonfile

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

type plan struct {
	Name  string            `json:"name"`
	Rings []ring            `json:"rings"`
	Free  map[string]any    `json:"free"`
	Named map[string]*ring  `json:"named"`
	When  time.Time         `json:"when,omitzero"`
	Label map[string]string `json:"label"`
}

type ring struct {
	Percent int      `json:"percent"`
	Zones   []string `json:"zones"`
}

// Each mistake has its line, and the field that was meant.
func TestMistakesHaveLines(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want string
	}{
		"fine":              {"{\"name\": \"a\", \"rings\": [{\"percent\": 1}], \"free\": {\"x\": {\"y\": 1}}, \"when\": \"2026-01-01T00:00:00Z\"}\n", ""},
		"misspelt":          {"{\n  \"name\": \"a\",\n  \"rigns\": []\n}", "f.json:3: it has no field rigns; did you mean rings?"},
		"below":             {"{\n  \"rings\": [\n    {\"percent\": 1},\n    {\"precent\": 2}\n  ]\n}", "f.json:4: rings has no field precent; did you mean percent?"},
		"nothing near":      {"{\"colour\": 1}", "f.json:1: it has no field colour; it has name, rings, free, named, when, label"},
		"two":               {"{\n\"nmae\": 1,\n\"named\": {\"a\": {\n\"zone\": []}}}", "f.json:2: it has no field nmae; did you mean name?\nf.json:4: named.a has no field zone; did you mean zones?"},
		"in what is free":   {"{\"free\": {\"nmae\": 1}, \"label\": {\"zone\": 1}}", "f.json:1: label is a number, want a string"},
		"below the unknown": {"{\"rigns\": {\"percent\": {\"x\": 1}}}", "f.json:1: it has no field rigns; did you mean rings?"},
		"wrong type":        {"{\n\n  \"rings\": [{\"percent\": \"ten\"}]}", "f.json:3: rings.percent is a string, want a whole number"},
		"no JSON":           {"{\n  \"name\": \"a\"\n  \"rings\": []}", "f.json:3: it is no JSON: invalid character '\"' after object key:value pair"},
		"a comma":           {"{\n  \"name\": \"a\",\n}\n", "f.json:3: it is no JSON: invalid character '}' looking for beginning of object key string"},
		"cut short":         {"{\n  \"name\": \"a\",\n  \"rings\": [\n\n\n", "f.json:3: it is no JSON: it ends too early"},
		"empty":             {"", "f.json:1: it is no JSON: it ends too early"},
		"more":              {"{}\n\n{}", "f.json:3: bytes after the end"},
		"a list":            {"[]", "f.json:1: it is a list, want an object"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Decode([]byte(tt.text), new(plan))
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no mistake")
			}
			if got := withoutLines(In("f.json", err)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A mistake in what a field means has the line of the field, and keeps what it wraps.
func TestAt(t *testing.T) {
	text := []byte("{\n  \"a\": {\n    \"b\": 1\n  },\n  \"b\": 2\n}")
	for path, line := range map[string]string{"a.b": "f:3: ", "b": "f:5: ", "a": "f:2: ", "none": "f:1: ", "a.c": "f:2: "} {
		if got := withoutLines(In("f", At(text, strings.Split(path, "."), "no"))); got != line+"no" {
			t.Errorf("%s: %s", path, got)
		}
	}
	if err := In("f", errors.ErrUnsupported); !errors.Is(err, errors.ErrUnsupported) || !strings.HasPrefix(err.Error(), "f: ") {
		t.Error(err)
	}
}

// withoutLines is an error without the lines of the file that it shows.
func withoutLines(err error) string {
	lines := strings.Split(err.Error(), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(s string) bool { return strings.HasPrefix(s, "   ") }), "\n")
}

// The line itself is shown, with carets under what is wrong.
func TestMistakesShowTheirLines(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\t\"name\": \"a\",\r\n\t\"rigns\": []}": "   3 | \t\"rigns\": []}\n     | \t^^^^^^^",
		"{\n  \"name\": \"\u00e9\", \"rigns\": []}": "   2 |   \"name\": \"\u00e9\", \"rigns\": []}\n     |                ^^^^^^^",
		"{\n  \"name\": \"a\",\n}\n":                "   3 | }\n     | ^",
		"{\n  \"rings\": [\n\n":                     "   2 |   \"rings\": [\n     |            ^",
		"{\"name\": \"\x1b[31m\",\"rigns\": []}":    "   1 | {\"name\": \"?[31m\",\"rigns\": []}\n     |           ^",
		"{\"name\": \"" + strings.Repeat("x", 300) + "\", \"rigns\": 1, \"free\": {\"a\": \"" + strings.Repeat("y", 300) + "\"}}": "...",
		"": "   1 | \n     | ^",
	} {
		err := Decode([]byte(text), new(plan))
		if err == nil {
			t.Errorf("%q: no mistake", text)
			continue
		}
		_, got, _ := strings.Cut(In("f.json", err).Error(), "\n")
		if want == "..." {
			line, carets, _ := strings.Cut(got, "\n")
			if at := strings.Index(line, `"rigns"`); at < 0 || len(line) > 180 || carets != "     | "+strings.Repeat(" ", at-7)+"^^^^^^^" {
				t.Errorf("%q", got)
			}
		} else if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// Whatever is refused has a line that the text has.
// Of what may have any shape too, each mistake has its line.
func TestObject(t *testing.T) {
	for text, want := range map[string]string{
		"{\"n\": 10000000000000000000000001}": "",
		"{\n\"a\": 1,\n\"a\": 2}":             "f.json:3: the key \"a\" is there twice in one object\n   3 | \"a\": 2}\n     | ^^^",
		"{\"x\": [{\"a\": 1}, {\"a\": 2}]}":   "",
		"{\"a\\\"b\": 1, \"a\\\"b\": 2}":      "f.json:1: the key \"a\\\"b\" is there twice",
		"{\n\"a\": [1,,2]}":                   "f.json:2: it is no JSON: invalid character ','",
		"{\n\"a\": [1,":                       "f.json:2: it is no JSON: it ends too early",
		"[1]":                                 "f.json:1: it is a list, want an object",
		"null":                                "f.json:1: it is null, want an object",
		"{}\n{}":                              "f.json:2: bytes after the end",
	} {
		m, err := Object([]byte(text))
		if err == nil {
			err = Once([]byte(text))
		}
		if err != nil {
			err = In("f.json", err)
		}
		if want == "" && (err != nil || len(m) == 0) || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, %v; want %s", text, m, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"{\"rings\":[{\"x\":1}]}", "{", "[[[", "{\"a\":{\"b\":\n[1,2,{\"c\":null}]}}", "\"\\ud800\"", "1 2", "{\"a\\\"\":1,\"a\\\"\":2}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, free := Object(b)
		for _, err := range []error{Decode(b, new(plan)), free, Once(b)} {
			list := (Error)(nil)
			if err != nil && !errors.As(err, &list) {
				t.Fatalf("%T: %v", err, err)
			}
			for _, m := range list {
				if m.Line < 1 || m.Line > 1+strings.Count(string(b), "\n") || m.Text == "" || In("f", err).Error() == "" {
					t.Fatalf("line %d of %q: %s", m.Line, b, m.Text)
				}
			}
		}
	})
}
