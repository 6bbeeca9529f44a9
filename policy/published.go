package policy

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// inputSource is where the fields of Input and their meanings are written, once.
//
//go:embed input.go
var inputSource string

// KindSchema returns the input of a kind as JSON Schema (2020-12), for authors and their tools: the
// parts that the kind has, which of them are always there, and what every field means. It is
// closed. ErrInput: there is no such kind.
func KindSchema(kind Kind) ([]byte, error) {
	shape, ok := shapes[kind]
	if !ok {
		return nil, fmt.Errorf("%w: kind %q is not one of %v", ErrInput, kind, Kinds)
	}
	doc := published{meanings()}.object(reflect.TypeFor[Input](), func(name string) (in, required bool) {
		return slices.Contains(shape.fields(), name), slices.Contains(always, name) || slices.Contains(shape.must.names(), name)
	})
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["$id"] = "urn:bailiwick:policy:input:" + fmt.Sprint(InputVersion) + ":" + string(kind)
	doc["title"], doc["description"] = "bailiwick policy input of kind "+string(kind), shape.asks
	props := doc["properties"].(map[string]any)
	props["kind"] = map[string]any{"const": kind}
	props["v"] = map[string]any{"const": InputVersion}
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}

// published writes schemas with the meanings of "Type.Field" and "Type".
type published struct{ meanings map[string]string }

func (p published) object(t reflect.Type, has func(name string) (in, required bool)) map[string]any {
	props, required := map[string]any{}, []string{}
	for f := range t.Fields() {
		name, _ := jsonName(f)
		in, must := has(name)
		if !in {
			continue
		}
		if must {
			required = append(required, name)
		}
		s := fieldSchema(f, p.of(f.Type))
		if is := p.meanings[t.Name()+"."+f.Name]; is != "" {
			s["description"] = is
		}
		props[name] = s
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (p published) of(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return p.of(t.Elem())
	case reflect.Struct:
		names := map[string]bool{}
		for f := range t.Fields() {
			name, opt := jsonName(f)
			names[name] = !opt
		}
		s := p.object(t, func(name string) (in, required bool) { return true, names[name] })
		if is := p.meanings[t.Name()]; is != "" {
			s["description"] = is
		}
		return s
	case reflect.Slice:
		return map[string]any{"type": "array", "items": p.of(t.Elem()), "maxItems": MaxList}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return map[string]any{"type": "object", "maxProperties": MaxList}
		}
		return map[string]any{"type": "object", "additionalProperties": p.of(t.Elem()), "maxProperties": MaxList}
	}
	return schemaOf(t)
}

// meanings reads the comments of input.go.
var meanings = sync.OnceValue(func() map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "input.go", inputSource, parser.ParseComments)
	if err != nil {
		panic(err) // it compiled
	}
	out := map[string]string{}
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.TYPE {
			continue
		}
		for _, spec := range decl.Specs {
			t := spec.(*ast.TypeSpec)
			fields, ok := t.Type.(*ast.StructType)
			if !ok {
				continue
			}
			out[t.Name.Name] = sentence(decl.Doc)
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					out[t.Name.Name+"."+name.Name] = sentence(f.Comment)
				}
			}
		}
	}
	return out
})

func sentence(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
