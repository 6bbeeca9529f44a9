package policy

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// Mistake is one thing that is wrong in a level, and where. As an error it is one line; Snippet
// shows the place.
type Mistake struct {
	Is      error  // what sort it is, for errors.Is: ErrRule, ErrCompile, ...
	File    string // level/path; empty where no file is to blame
	Line    int    // from 1; 0 where there is no line to point at
	Column  int    // from 1, in bytes
	Message string // what is wrong
	Fix     string // what its author should do; may be empty
	Source  string // the line as it was written, without its end

	width int    // bytes of Source that are wrong; 0 where only the beginning is known
	name  string // what of the line is wrong, where that is one word of it
}

// Error is Is, the place, what is wrong and the fix.
func (m *Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.Is.Error())
	if m.File != "" {
		fmt.Fprintf(&b, ": %s", m.File)
	}
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d", m.Line)
	}
	if m.Message != "" {
		fmt.Fprintf(&b, ": %s", m.Message)
	}
	if m.Fix != "" {
		fmt.Fprintf(&b, "; %s", m.Fix)
	}
	return b.String()
}

// Unwrap returns Is.
func (m *Mistake) Unwrap() error { return m.Is }

// Snippet is the line with carets under what is wrong, or nothing where there is no line.
func (m *Mistake) Snippet() string {
	if m.Source == "" || m.Line == 0 {
		return ""
	}
	return spelling.Show(m.Line, m.Column, min(m.width, len(m.Source)), m.Source)
}

// Mistakes takes an error of Check, Test or Activate apart: one for each mistake in it, by file and
// line. What has no place keeps its words.
func Mistakes(err error) (out []*Mistake) {
	var walk func(error)
	walk = func(err error) {
		if m, ok := err.(*Mistake); ok {
			out = append(out, m)
			return
		}
		if list, ok := err.(interface{ Unwrap() []error }); ok && !leads(err, list.Unwrap()) {
			for _, e := range list.Unwrap() {
				walk(e)
			}
			return
		}
		out = append(out, &Mistake{Is: err})
	}
	if err != nil {
		walk(err)
	}
	slices.SortStableFunc(out, compareMistakes)
	return out
}

// leads tells an error with words of its own, as fmt.Errorf makes of several, from a plain list.
func leads(err error, list []error) bool {
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = e.Error()
	}
	return err.Error() != strings.Join(words, "\n")
}

func compareMistakes(a, b *Mistake) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// wrong makes a Mistake at a place in a module.
func wrong(is error, loc *ast.Location, fix, format string, args ...any) *Mistake {
	m := &Mistake{Is: is, Message: fmt.Sprintf(format, args...), Fix: fix}
	if loc != nil {
		m.File, m.Line, m.Column = loc.File, loc.Row, loc.Col
		text, _, _ := strings.Cut(string(loc.Text), "\n")
		m.width = len(text)
	}
	return m
}

// word says that one word of what is at the place is wrong: quote finds where.
func (m *Mistake) word(name string) *Mistake {
	m.name = name
	return m
}

// tell joins mistakes in the order of their places, each with the line it is in.
func (l *Level) tell(errs ...error) error {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	list := Mistakes(err)
	told := map[string]bool{}
	list = slices.DeleteFunc(list, func(m *Mistake) bool {
		again := m.Line > 0 && told[m.Error()]
		told[m.Error()] = true
		return again
	})
	out := make([]error, len(list))
	for i, m := range list {
		if m.File == "" && m.Message == "" {
			out[i] = m.Is // an error in its own words
			continue
		}
		if m.Source == "" && m.Line > 0 {
			m.quote(strings.Split(l.Modules[strings.TrimPrefix(m.File, l.Name+"/")], "\n"))
		}
		out[i] = m
	}
	return errors.Join(out...)
}

// quote takes over the line it is about. What is missed at the end of a file is missed at the end
// of its last line with words.
func (m *Mistake) quote(lines []string) {
	if m.Line > len(lines) {
		return
	}
	for m.Line > 1 && strings.TrimSpace(lines[m.Line-1]) == "" {
		m.Line--
		m.Column = len(strings.TrimRight(lines[m.Line-1], "\r")) + 1
	}
	m.Source = strings.TrimRight(lines[m.Line-1], "\r")
	if m.name == "" {
		return
	}
	word := regexp.MustCompile(`(^|[^A-Za-z0-9_])` + regexp.QuoteMeta(m.name) + `([^A-Za-z0-9_]|$)`)
	for _, from := range []int{min(max(m.Column-2, 0), len(m.Source)), 0} {
		if at := word.FindStringSubmatchIndex(m.Source[from:]); at != nil {
			m.Column, m.width = from+at[3]+1, len(m.name)
			return
		}
	}
}
