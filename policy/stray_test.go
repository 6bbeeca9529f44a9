package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const (
	strayHead = "package bailiwick.regional.connect\n\nimport rego.v2\n\nimport data.bailiwick.regional.lib.who\n\n# METADATA\n# title: T\n# labels:\n#   owner: us\n"
	strayLib  = "package bailiwick.regional.lib.who\n\nimport rego.v2\n\nknown(p) if p.spiffe_id != \"\"\n\nlimit := 3\n"
	strayTest = "package bailiwick.regional.connect_test\n\nimport rego.v2\n\nimport data.bailiwick.regional.connect\n\n"
)

func strayLevel(condition, test string) Level {
	return Level{Name: Regional, Data: map[string]any{"services": map[string]any{}}, Modules: map[string]string{
		"lib/who.rego":      strayLib,
		"connect.rego":      strayHead + "deny contains \"no\" if {\n\twho.known(input.source)\n\tnot granted\n\t" + condition + "\n}\n\ngranted if data.services[input.service.name]\n",
		"connect_test.rego": strayTest + "good := {}\n\n" + test + "\n",
	}}
}

// A reference to what nobody wrote is undefined for ever. It is told with its line, the word under the
// caret and what was meant; a node refuses a level with one, since a deny would be off without a word.
func TestStrayReferences(t *testing.T) {
	for _, tt := range []struct{ name, condition, test, message, fix, under string }{
		{"rule", "not data.bailiwick.regional.connect.grantd", "", "data.bailiwick.regional.connect has no rule or package grantd", "did you mean granted?", "grantd"},
		{"rule of a library", "input.v > who.limt", "", "data.bailiwick.regional.lib.who has no rule or package limt", "did you mean limit?", "limt"},
		{"function", "who.knwon(input.source)", "", "there is no function knwon in data.bailiwick.regional.lib.who", "did you mean known?", "knwon"},
		{"function that is not called", "not who.known", "", "known is a function", "call it: known(...)", "known"},
		{"library", "data.bailiwick.regional.lib.hwo.limit == 1", "", "data.bailiwick.regional.lib has no rule or package hwo", "did you mean who?", "hwo"},
		{"kind", "data.bailiwick.regional.conect.granted", "", "data.bailiwick.regional has no rule or package conect", "did you mean connect?", "conect"},
		{"like nothing", "input.v == who.most", "", "data.bailiwick.regional.lib.who has no rule or package most", "want one of known, limit", "most"},
		{"in a comprehension", "count([1 | who.limt]) == 0", "", "has no rule or package limt", "did you mean limit?", "limt"},
		{"in a test", "true", "test_a if not connect.dney", "data.bailiwick.regional.connect has no rule or package dney", "did you mean deny?", "dney"},
		{"in a test, replaced", "true", "test_a if connect.granted with data.bailiwick.regional.connect.grantd as true", "has no rule or package grantd", "did you mean granted?", "grantd"},
		{"helper of tests", "true", "test_a if helpr(1)\n\nhelper(x) if x == 1", "there is no function helpr", "did you mean helper?", "helpr"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(strayLevel(tt.condition, tt.test))
			list := Mistakes(err)
			if len(list) != 1 || !errors.Is(err, ErrCompile) || list[0].Message != tt.message && !strings.HasSuffix(list[0].Message, tt.message) || list[0].Fix != tt.fix {
				t.Fatalf("got %v\nwant %s; %s", err, tt.message, tt.fix)
			}
			line, carets, _ := strings.Cut(list[0].Snippet(), "\n")
			if at := strings.Index(carets, "^"); at < 0 || !strings.HasPrefix(line[at:], tt.under) || strings.Count(carets, "^") != len(tt.under) {
				t.Errorf("not under %s:\n%s", tt.under, list[0].Snippet())
			}
			if tt.test == "" && !errors.Is(New(Config{}).Activate(strayLevel(tt.condition, "")), ErrCompile) {
				t.Error("a node takes it")
			}
		})
	}
	for _, condition := range []string{"input.v == who.limit", "some name\n\tdata.bailiwick.regional.lib[name].limit == 3", "count(data.bailiwick.regional.lib) == 1", "data.bailiwick.regional.connect.granted"} {
		if err := Check(strayLevel(condition, "test_a if connect.deny[\"no\"]\n\ntest_b if good == {}")); err != nil {
			t.Errorf("%s: %v", condition, err)
		}
	}
}

// What nodes take and has no effect is told to the author.
func TestIdleReferences(t *testing.T) {
	for _, tt := range []struct{ name, condition, test, message, fix string }{
		{"another level", "not data.bailiwick.global.connect.deny", "", "level regional sees no rules but its own, and not those of global", "write what several levels need in each of them"},
		{"no level", "not data.bailiwick.regonal.connect.deny", "", "level regional sees no rules but its own, and not those of regonal", "did you mean regional?"},
		{"data", "data.servcies", "", "there is no data.servcies", "did you mean services? If not, give servcies a place in data.json"},
		{"another level, in a test", "true", "test_a if count(data.bailiwick.global.connect.deny) == 0", "level regional sees no rules but its own, and not those of global", "write what several levels need in each of them"},
		{"data in a test", "true", "test_a if not connect.granted with data.servces as {}", "no rule reads data.servces, so putting something in its place has no effect", "did you mean services?"},
	} {
		l := strayLevel(tt.condition, tt.test)
		if err := Check(l); err != nil {
			t.Errorf("%s: a node refuses it: %v", tt.name, err)
			continue
		}
		err := Review(l, []byte(`{"services": {}}`))
		if list := Mistakes(err); len(list) != 1 || !errors.Is(err, ErrIdle) || list[0].Message != tt.message || list[0].Fix != tt.fix || list[0].Snippet() == "" {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	// What may be there at some time is not misspelt, and tests read what they like.
	l := strayLevel("not data.maintenance", "test_a if data.table == 1 with data.table as 1\n\ntest_b if connect.granted with data.services as {\"a\": 1} with data.maintenance as true")
	if err := Review(l, []byte(`{"services": {}}`)); err != nil {
		t.Error(err)
	}
}

// The author of a module chooses all names in it.
func FuzzStrays(f *testing.F) {
	f.Add("not who.limt", `test_a if connect.dney with data.x as 1`)
	f.Add(`data["bailiwick"]["regional"][input.source.zone].x`, `test_a if data[_].x`)
	f.Add(`data.bailiwick["regional"].connect["\u0000"]`, `test_a if true with data as {}`)
	f.Fuzz(func(t *testing.T, condition, test string) {
		if len(condition)+len(test) > 512 {
			return
		}
		l := strayLevel(condition, test)
		l.Measured = true
		data, err := json.Marshal(l.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range Mistakes(errors.Join(Check(l), Review(l, data))) {
			if m.Line > 0 && (m.File == "" || m.Source == "") {
				t.Errorf("a place without its line: %v", fmt.Sprint(m))
			}
		}
	})
}
