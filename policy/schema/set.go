package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
)

// MaxFiles is how many schemas a Set may have.
const MaxFiles = 64

var (
	// ErrSchema means a file is no schema of state. The message names the file and the line;
	// the schemas in force stay.
	ErrSchema = errors.New("state schema is not valid")

	// ErrValue means a value is not what the schema of its key allows. The message names the
	// schema, the place in the value and what is wanted there.
	ErrValue = errors.New("the value breaks the schema of its key")
)

// Schema judges the values of one key space. It may be used concurrently.
type Schema struct {
	File    string // where it came from
	Kind    string
	Prefix  string // of names
	Version uint64
	Since   time.Time // values written before are not judged; zero: all are
	Classes []string  // data classes of the values, sorted; where they may be kept is for policy to say

	compiled *jsonschema.Schema
	cost     int // of closed
}

// String names the schema: its file and version.
func (s *Schema) String() string { return fmt.Sprintf("%s@%d", s.File, s.Version) }

// Set is the schemas of one policy. The zero value and nil have none.
type Set struct{ byKind map[string][]*Schema }

// All returns the schemas, by file.
func (s *Set) All() []*Schema {
	if s == nil {
		return nil
	}
	var out []*Schema
	for _, list := range s.byKind {
		out = append(out, list...)
	}
	slices.SortFunc(out, func(a, b *Schema) int { return strings.Compare(a.File, b.File) })
	return out
}

// Find returns the schema of a key, or nil.
func (s *Set) Find(kind, name string) *Schema {
	if s == nil {
		return nil
	}
	for _, sch := range s.byKind[kind] { // the longest prefix first
		if strings.HasPrefix(name, sch.Prefix) {
			return sch
		}
	}
	return nil
}

// Classes returns the data classes of a key, of every schema whose prefix its name has: a
// schema for fewer names takes none away.
func (s *Set) Classes(kind, name string) (out []string) {
	if s == nil {
		return nil
	}
	for _, sch := range s.byKind[kind] {
		if strings.HasPrefix(name, sch.Prefix) {
			out = append(out, sch.Classes...)
		}
	}
	return out
}

// Labels reports whether any schema names a data class.
func (s *Set) Labels() bool {
	return slices.ContainsFunc(s.All(), func(s *Schema) bool { return len(s.Classes) > 0 })
}

// Compile reads schemas by file name. Errors are all mistakes, joined, each an ErrSchema.
func Compile(files map[string]string) (*Set, error) {
	if len(files) > MaxFiles {
		return nil, fmt.Errorf("%w: %d files, at most %d", ErrSchema, len(files), MaxFiles)
	}
	set := &Set{byKind: map[string][]*Schema{}}
	var errs []error
	for _, file := range slices.Sorted(maps.Keys(files)) {
		sch, bad := read(file, []byte(files[file]))
		for _, err := range bad {
			errs = append(errs, fmt.Errorf("%w: %s: %w", ErrSchema, file, err))
		}
		if len(bad) > 0 {
			continue
		}
		if i := slices.IndexFunc(set.byKind[sch.Kind], func(o *Schema) bool { return o.Prefix == sch.Prefix }); i >= 0 {
			errs = append(errs, fmt.Errorf("%w: %s: kind %s with prefix %q is also in %s; one of them must go",
				ErrSchema, file, sch.Kind, sch.Prefix, set.byKind[sch.Kind][i].File))
			continue
		}
		set.byKind[sch.Kind] = append(set.byKind[sch.Kind], sch)
	}
	for _, list := range set.byKind {
		slices.SortFunc(list, func(a, b *Schema) int { return len(b.Prefix) - len(a.Prefix) })
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return set, nil
}

// MaxClasses is how many data classes a schema may name.
const MaxClasses = 16

var classForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

var kindForm = regexp.MustCompile(`^x-[a-z0-9-]{1,30}$`)

// read reads one file, and returns its mistakes.
func read(file string, src []byte) (*Schema, []error) {
	doc, err := parse(src)
	if err != nil {
		return nil, []error{err}
	}
	if !doc.object {
		return nil, []error{&lineError{line(src, doc.at), "want an object with kind, version and schema"}}
	}
	s := &Schema{File: file}
	var errs []error
	bad := func(at int, format string, args ...any) {
		errs = append(errs, &lineError{line(src, at), fmt.Sprintf(format, args...)})
	}
	var body *node
	for i, k := range doc.keys {
		n := doc.sub[i]
		words, isText := n.scalar.(string)
		switch k.s {
		case "kind":
			if s.Kind = words; !kindForm.MatchString(words) {
				bad(n.at, "kind: want x-<name> of lower-case letters, digits and dashes; the other kinds are bailiwick's own")
			}
		case "prefix":
			if s.Prefix = words; !isText || len(words) > 128 || strings.Contains(words, "/") {
				bad(n.at, "prefix: want the beginning of a name, at most 128 bytes and no slash")
			}
		case "version":
			v, _ := n.scalar.(json.Number)
			if u, err := v.Int64(); err != nil || u < 1 {
				bad(n.at, "version: want a whole number from 1")
			} else {
				s.Version = uint64(u)
			}
		case "since":
			if s.Since, err = time.Parse(time.RFC3339, words); err != nil {
				bad(n.at, "since: want a time such as 2026-11-21T00:00:00Z")
			}
		case "classes":
			for _, c := range n.sub {
				word, _ := c.scalar.(string)
				if !classForm.MatchString(word) || slices.Contains(s.Classes, word) {
					bad(c.at, "classes: want names of lower-case letters, digits and dashes, each once")
				}
				s.Classes = append(s.Classes, word)
			}
			if n.object || len(n.sub) == 0 || len(n.sub) > MaxClasses {
				bad(n.at, "classes: want a list of 1 to %d names of data classes", MaxClasses)
			}
			slices.Sort(s.Classes)
		case "schema":
			body = n
		default:
			bad(k.at, "%q is none of kind, prefix, version, since, classes, schema", bounded.Excerpt(k.s, 64))
		}
	}
	for _, field := range []string{"kind", "version", "schema"} {
		if doc.member(field) == nil {
			bad(doc.at, "%s is missing", field)
		}
	}
	if body != nil {
		var broken []error
		s.cost, broken = closed(src, body)
		errs = append(errs, broken...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	if s.compiled, err = compile(body.value()); err != nil {
		return nil, []error{&lineError{line(src, body.at), err.Error()}}
	}
	return s, nil
}

// place is the address of every schema: nothing else is ever asked for.
const place = "state:///schema.json"

// nothing is the loader: closed has refused what would need one.
type nothing struct{}

func (nothing) Load(url string) (any, error) { return nil, fmt.Errorf("%s: nothing is fetched", url) }

// compile hands a closed schema to the library.
func compile(doc any) (out *jsonschema.Schema, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nothing{})
	c.AssertFormat()
	if err := c.AddResource(place, doc); err != nil {
		return nil, err
	}
	out, err = c.Compile(place)
	if invalid := (*jsonschema.SchemaValidationError)(nil); errors.As(err, &invalid) {
		if reasons := (*jsonschema.ValidationError)(nil); errors.As(invalid.Err, &reasons) {
			return nil, errors.New("the schema: " + summary(reasons))
		}
	}
	return out, err
}

// Check judges a value. Errors wrap ErrValue.
func (s *Schema) Check(value []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %s: %v", ErrValue, s, p)
		}
	}()
	doc, err := parse(value)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrValue, s, err)
	}
	if work := s.cost * doc.size(); work > MaxWork {
		return fmt.Errorf("%w: %s: the schema's %d places times %d values are more than %d; make the value or the schema smaller", ErrValue, s, s.cost, doc.size(), MaxWork)
	}
	err = s.compiled.Validate(doc.value())
	if broken := (*jsonschema.ValidationError)(nil); errors.As(err, &broken) {
		return fmt.Errorf("%w: %s: %s", ErrValue, s, summary(broken))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrValue, s, err)
	}
	return nil
}

// summary is the first few mistakes, on one line.
func summary(err *jsonschema.ValidationError) string {
	const most, looked = 3, 64
	var all []string
	for _, leaf := range leaves(err, looked, nil) {
		all = append(all, bounded.Excerpt(leaf.Error(), 256))
	}
	slices.Sort(all) // objects are visited in no order
	all = slices.Compact(all)
	if len(all) > most {
		all = append(all[:most], "and more")
	}
	return strings.Join(all, "; ")
}

// leaves are the mistakes themselves, without those that only contain others.
func leaves(err *jsonschema.ValidationError, most int, out []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(err.Causes) == 0 {
		return append(out, err)
	}
	for _, cause := range err.Causes {
		if len(out) < most {
			out = leaves(cause, most, out)
		}
	}
	return out
}
