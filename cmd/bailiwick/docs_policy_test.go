package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// Every command on the pages for policy authors runs as it stands there, one after another, and
// prints what the page says; their blocks of Rego and JSON are the text of the files that they
// name, or make them. BAILIWICK_UPDATE=1 writes the outputs anew.
func TestPolicyPages(t *testing.T) {
	for page, least := range map[string]int{"authors": 15, "examples": 30} {
		t.Run(page, func(t *testing.T) { runPage(t, "../../docs/policy/"+page+".md", least) })
	}
}

// Every example that ships has a walk of its own.
func TestExamplesPage(t *testing.T) {
	b, err := os.ReadFile("../../docs/policy/examples.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range builtin.Examples {
		if !strings.Contains(string(b), " --example "+name+"\n") {
			t.Errorf("no walk through %s", name)
		}
	}
}

func runPage(t *testing.T, page string, least int) {
	before, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	page1, err := filepath.Abs(page)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	s := session{t: t}
	parts := strings.Split(string(before), "\n```")
	for i := range parts {
		language, body, _ := strings.Cut(parts[i], "\n")
		switch {
		case i%2 == 0:
			s.file = named(parts[i])
		case language == "console":
			parts[i] = "console\n" + s.console(body)
		case language == "rego" || language == "json":
			s.block(body + "\n")
		}
	}
	after := strings.Join(parts, "\n```")
	if s.ran < least {
		t.Errorf("only %d commands ran: this test looks in the wrong place", s.ran)
	}
	if masked(after) == masked(string(before)) {
		return
	}
	if os.Getenv("BAILIWICK_UPDATE") != "" {
		if err := os.WriteFile(page1, []byte(after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, want := strings.Split(masked(after), "\n"), strings.Split(masked(string(before)), "\n")
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("line %d of the page:\n%s\nwhat the commands print:\n%s\n(BAILIWICK_UPDATE=1 writes it)", i+1, want[i], got[i])
		}
	}
	t.Fatal("the page and what its commands print differ in length")
}

// session is a shell that knows what the page uses.
type session struct {
	t    *testing.T
	file string // named just above the block
	exit int
	ran  int
}

var fileLine = regexp.MustCompile("(?m)^`([^`]+)`:$")

// named is the file that the text before a block ends with.
func named(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if m := fileLine.FindStringSubmatch(lines[len(lines)-1]); m != nil {
		return m[1]
	}
	return ""
}

func (s *session) console(body string) string {
	var out strings.Builder
	for line := range strings.Lines(body + "\n") {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
			fmt.Fprintf(&out, "$ %s\n%s", command, s.run(command))
		}
	}
	return strings.TrimRight(out.String(), "\n")
}

func (s *session) run(command string) string {
	s.ran++
	words := shellWords(command)
	switch {
	case words[0] == "bailiwick":
		var out bytes.Buffer
		s.exit = execute(words[1:], &out, &out)
		return out.String()
	case command == "echo $?":
		return fmt.Sprintln(s.exit)
	case words[0] == "cp" && len(words) == 4 && words[1] == "-r":
		if err := os.CopyFS(words[3], os.DirFS(words[2])); err != nil {
			s.t.Error(err)
		}
		return ""
	case words[0] == "sed" && len(words) == 4:
		how := strings.Split(words[2], "/")
		b, err := os.ReadFile(words[3])
		if err != nil || !bytes.Contains(b, []byte(how[1])) {
			s.t.Fatalf("%s: %v", command, err)
		}
		if err := os.WriteFile(words[3], bytes.ReplaceAll(b, []byte(how[1]), []byte(how[2])), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return ""
	}
	s.t.Fatalf("the page has a command that this test does not know: %s", command)
	return ""
}

// shellWords splits a line as a shell does that knows quotes and nothing else.
func shellWords(line string) (words []string) {
	var word strings.Builder
	quote, inside := rune(0), false
	end := func() {
		if inside {
			words = append(words, word.String())
		}
		word.Reset()
		inside = false
	}
	for _, r := range line {
		switch {
		case quote == 0 && (r == '\'' || r == '"'):
			quote, inside = r, true
		case r == quote:
			quote = 0
		case quote == 0 && r == ' ':
			end()
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	end()
	return words
}

// block holds a block against the file that it is part of, or makes the file. JSON replaces it.
func (s *session) block(body string) {
	if s.file == "" {
		s.t.Errorf("a block has no file named above it:\n%s", body)
		return
	}
	b, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) || filepath.Ext(s.file) == ".json" {
		if err := os.WriteFile(s.file, []byte(body), 0o600); err != nil {
			s.t.Error(err)
		}
		return
	}
	if err != nil || !strings.Contains(string(b), body) {
		s.t.Errorf("%s (%v) does not hold this block of the page:\n%s", s.file, err, body)
	}
}

var took = regexp.MustCompile(` +[0-9.]+(µs|ms|s)\b`)

// masked is the page without what differs from run to run: how long tests took.
func masked(page string) string {
	return regexp.MustCompile(`WHERE +TIME`).ReplaceAllString(took.ReplaceAllString(page, " T"), "WHERE TIME")
}
