package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// Every command line in the documentation is one that this version takes: verbs,
// flags and numbers of arguments. What they do, first-day.txtar and fleet.txtar run.
func TestDocumentedCommands(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("../../docs/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range append(append(files, below...), "../../README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commands(string(b)) {
			seen++
			if err := parses(line); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(file), line, err)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d commands seen: this test looks in the wrong place", seen)
	}
	for _, wrong := range []string{"bailiwick trust improt x", "bailiwick entry apply --file-name x", "bailiwick entry delete", "bailiwick trust list a b"} {
		if parses(wrong) == nil {
			t.Errorf("%s: not refused", wrong)
		}
	}
}

var comment = regexp.MustCompile(`\s+# .*$`)

// commands are the lines in blocks of code, without a language, that begin with our
// name.
func commands(text string) (out []string) {
	for i, part := range strings.Split("\n"+text, "\n```") {
		if language, body, _ := strings.Cut(part, "\n"); i%2 == 1 && language == "" {
			for line := range strings.Lines(body) {
				line = comment.ReplaceAllString(strings.TrimSpace(line), "")
				if strings.HasPrefix(line, "bailiwick ") {
					out = append(out, line)
				}
			}
		}
	}
	return out
}

func parses(line string) error {
	root := newRoot(&options{format: output.Table})
	c, rest, err := root.Find(shellWords(line)[1:])
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err == nil && c.Args != nil {
		err = c.Args(c, c.Flags().Args())
	}
	if err == nil && c.HasSubCommands() && c.Flags().NArg() > 0 && c != root {
		err = &usageError{os.ErrInvalid} // a verb that is none
	}
	return err
}

// The map of the README names every room of the house, and nothing that is not there.
func TestFindYourWay(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "## Find your way\n\n```\n")
	table, _, _ = strings.Cut(table, "```")
	rooms, room := map[string]string{}, ""
	for line := range strings.Lines(table) {
		if name, rest, ok := strings.Cut(line, "/ "); ok && !strings.HasPrefix(line, " ") {
			room, line = name, rest
		}
		rooms[room] += line
	}
	for _, room := range []string{"cmd/internal", "attest", "identity", "gossip", "policy", "mesh"} {
		entries, err := os.ReadDir(filepath.Join("../..", room))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			sources, err := filepath.Glob(filepath.Join("../..", room, e.Name(), "*.go"))
			if err != nil {
				t.Fatal(err)
			}
			if len(sources) > 0 && !regexp.MustCompile(`\b`+e.Name()+`\b`).MatchString(rooms[room]) {
				t.Errorf("README: the line of %s/ does not name %s", room, e.Name())
			}
		}
		aside := regexp.MustCompile(`\([^)]*\)`).ReplaceAllString(strings.ReplaceAll(rooms[room], "\n", " "), "")
		if _, after, ok := strings.Cut(aside, ":"); ok {
			aside = after
		}
		for _, name := range regexp.MustCompile(`[,;]| and `).Split(aside, -1) {
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join("../..", room, name)); err != nil {
				t.Errorf("README: %s/ has no %s", room, name)
			}
		}
	}
}
