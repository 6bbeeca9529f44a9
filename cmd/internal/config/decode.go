package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// MaxSize is the largest file read, in bytes.
const MaxSize = 1 << 20

const maxDepth = 16

var (
	// ErrMistakes is what errors.Is finds in every Mistakes.
	ErrMistakes = errors.New("the configuration has mistakes")

	// ErrUnreadable means the file is not there, is none, or is not for this user.
	ErrUnreadable = errors.New("the configuration cannot be read")
)

// Mistake is one thing wrong in a file.
type Mistake struct {
	Line  int    // from 1; 0 where there is no line to point at
	Field string // "mesh.join[1]"
	Found string // what stands there, shortened; empty where nothing does
	Want  string // what would be right, or what is wrong with it
}

// Mistakes is everything wrong in one file.
type Mistakes struct {
	File string
	List []Mistake
}

func (m *Mistakes) Error() string {
	lines := make([]string, 0, len(m.List))
	for _, e := range m.List {
		where := m.File
		if e.Line > 0 {
			where += ":" + strconv.Itoa(e.Line)
		}
		found := ""
		if e.Found != "" {
			found = fmt.Sprintf("found %q, ", e.Found)
		}
		lines = append(lines, fmt.Sprintf("%s: %s: %s%s", where, e.Field, found, e.Want))
	}
	return strings.Join(lines, "\n")
}

func (m *Mistakes) Is(target error) bool { return target == ErrMistakes }

// decoder fills Go values from a YAML tree and collects every mistake.
type decoder struct {
	dir   string         // relative paths are relative to it
	lines map[string]int // field -> line, for checks that come after
	found []Mistake

	readable bool // it was YAML with a mapping in it, or empty
}

// decode reads b into the struct v points to. The decoder knows the line of
// every field afterwards, also where there were mistakes.
func decode(b []byte, dir string, v any) *decoder {
	d := &decoder{dir: dir, lines: map[string]int{}}
	if len(b) > MaxSize {
		d.add(0, "file", "", fmt.Sprintf("at most %d bytes, not %d", MaxSize, len(b)))
		return d
	}
	file, err := parser.ParseBytes(b, 0)
	if err != nil {
		line := 0
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			line = syntax.GetToken().Position.Line
			err = errors.New(syntax.GetMessage())
		}
		d.add(line, "file", "", "not YAML: "+err.Error())
		return d
	}
	if len(file.Docs) > 1 {
		d.add(0, "file", "", "one YAML document, not several")
		return d
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		d.readable = true // an empty file: what is required will be missed
		return d
	}
	body := file.Docs[0].Body
	switch body.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		d.readable = true
		d.value(body, reflect.ValueOf(v).Elem(), "", 0)
	default:
		t := reflect.TypeOf(v).Elem()
		d.add(body.GetToken().Position.Line, "file", body.String(), "want a mapping with the keys "+strings.Join(keys(t), ", "))
	}
	return d
}

func (d *decoder) add(line int, field, found, want string) {
	if len(found) > 60 {
		found = found[:57] + "..."
	}
	d.found = append(d.found, Mistake{Line: line, Field: field, Found: found, Want: want})
}

// miss adds a mistake at a field that was read, or at the nearest one around it.
func (d *decoder) miss(field, found, want string) {
	at := field
	for at != "" && d.lines[at] == 0 {
		at = at[:max(strings.LastIndexAny(at, ".["), 0)]
	}
	line := 0
	if at != "" {
		line = d.lines[at]
	}
	if found != "" && !strings.HasPrefix(want, "want ") {
		want = "want " + want
	}
	d.add(line, field, found, want)
}

// mistakes returns all that was found, in the order of the file.
func (d *decoder) mistakes(file string) *Mistakes {
	slices.SortStableFunc(d.found, func(a, b Mistake) int { return a.Line - b.Line })
	return &Mistakes{File: file, List: d.found}
}

func (d *decoder) value(n ast.Node, v reflect.Value, field string, depth int) {
	line := n.GetToken().Position.Line
	if d.lines[field] == 0 {
		d.lines[field] = line
	}
	if depth > maxDepth {
		d.add(line, field, "", "less nesting")
		return
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		d.add(line, field, n.String(), "want a plain value: anchors, aliases and tags are not read")
		return
	case *ast.NullNode:
		return // "field:" with nothing after it is a field not set
	}
	switch t := v.Addr().Interface().(type) {
	case *time.Duration:
		d.duration(n, t, field, line)
		return
	case encoding.TextUnmarshaler:
		if s, ok := d.scalar(n, field, line, "want a value"); ok {
			if err := t.UnmarshalText([]byte(s)); err != nil {
				d.add(line, field, s, wanted(t, err))
			}
		}
		return
	case *Path:
		if s, ok := d.scalar(n, field, line, "want a path"); ok && s != "" {
			if !filepath.IsAbs(s) {
				s = filepath.Join(d.dir, s)
			}
			*t = Path(s)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), field, depth)
	case reflect.Struct:
		d.mapping(n, v, field, depth)
	case reflect.Slice:
		d.sequence(n, v, field, depth)
	case reflect.String:
		if s, ok := d.scalar(n, field, line, "want text"); ok {
			v.SetString(s)
		}
	case reflect.Int:
		s, ok := d.scalar(n, field, line, "want a number")
		i, err := strconv.Atoi(s)
		if ok && err != nil {
			d.add(line, field, s, "want a whole number")
		}
		v.SetInt(int64(i))
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.add(line, field, n.String(), "want true or false")
			return
		}
		v.SetBool(b.Value)
	default:
		panic("config: no reader for " + v.Type().String()) // a field of a new type needs one here
	}
}

// wanted says what a type of a library takes; our own types say it in their errors.
func wanted(t any, err error) string {
	switch t.(type) {
	case *spiffeid.ID:
		return "want a SPIFFE ID, spiffe://<trust domain>/<path>: " + err.Error()
	case *spiffeid.TrustDomain:
		return "want a trust domain, like east.example.org: " + err.Error()
	case *time.Time:
		return "want a time like 2027-01-31T12:00:00Z"
	case *netip.AddrPort:
		return "want address:port, the address in numbers"
	}
	return err.Error()
}

func (d *decoder) scalar(n ast.Node, field string, line int, want string) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return s.Value.Value, true
	case ast.ScalarNode:
		return s.GetToken().Value, true
	}
	d.add(line, field, "", want+", not a list or a mapping")
	return "", false
}

func (d *decoder) duration(n ast.Node, t *time.Duration, field string, line int) {
	s, ok := d.scalar(n, field, line, "want a duration")
	if !ok {
		return
	}
	v, err := time.ParseDuration(s)
	if err != nil || v <= 0 {
		d.add(line, field, s, "want a positive duration like 90s, 30m or 24h")
		return
	}
	*t = v
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, field string, depth int) {
	var entries []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		entries = m.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{m}
	default:
		d.add(n.GetToken().Position.Line, field, n.String(), "want a mapping with the keys "+strings.Join(keys(v.Type()), ", "))
		return
	}
	seen := map[string]bool{}
	for _, e := range entries {
		key := e.Key.GetToken().Value
		line := e.Key.GetToken().Position.Line
		name := join(field, key)
		i := fieldByKey(v.Type(), key)
		switch {
		case i < 0:
			d.add(line, name, key, unknownKey(key, keys(v.Type())))
		case seen[key]:
			d.add(line, name, key, "want each key once")
		default:
			seen[key] = true
			d.lines[name] = line
			d.value(e.Value, v.Field(i), name, depth+1)
		}
	}
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, field string, depth int) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(n.GetToken().Position.Line, field, n.String(), "want a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, e := range seq.Values {
		d.value(e, out.Index(i), fmt.Sprintf("%s[%d]", field, i), depth+1)
	}
	v.Set(out)
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

func keys(t reflect.Type) (out []string) {
	for i := range t.NumField() {
		out = append(out, t.Field(i).Tag.Get("yaml"))
	}
	return out
}

func fieldByKey(t reflect.Type, key string) int {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("yaml") == key {
			return i
		}
	}
	return -1
}

// unknownKey names the likeliest key, so that a typing slip is mended at once.
func unknownKey(key string, known []string) string {
	if near := spelling.Nearest(key, known); near != "" {
		return fmt.Sprintf("no such key; did you mean %q?", near)
	}
	return "no such key; known here: " + strings.Join(known, ", ")
}
