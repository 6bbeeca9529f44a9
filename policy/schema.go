package policy

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Schema returns the JSON Schema (draft 7) of Input, with the parts of all kinds. It is closed: a
// rule that names a field which is not in it fails when its module is loaded. Tools of OPA take it
// with "opa check -s". KindSchema tells what one kind has.
func Schema() []byte {
	b, err := json.MarshalIndent(schemaDoc(), "", "  ")
	if err != nil {
		panic(err) // it holds strings, maps and booleans only
	}
	return append(b, '\n')
}

func schemaDoc() map[string]any {
	doc := schemaOf(reflect.TypeFor[Input]())
	doc["$schema"] = "http://json-schema.org/draft-07/schema#"
	doc["title"] = "bailiwick policy input"
	return doc
}

// schemaOf derives the schema from the Go type, so that the two cannot disagree.
func schemaOf(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		props, required := map[string]any{}, []string{}
		for f := range t.Fields() {
			name, opt := jsonName(f)
			props[name] = fieldSchema(f, schemaOf(f.Type))
			if !opt {
				required = append(required, name)
			}
		}
		s := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
		if len(required) > 0 {
			s["required"] = required
		}
		return s
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return map[string]any{"type": "object"}
		}
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}
	}
	panic("policy: no schema for " + t.String())
}

// fieldSchema adds what a field may be.
func fieldSchema(f reflect.StructField, s map[string]any) map[string]any {
	if known := valuesOf(f); known != nil {
		of := s
		if items, ok := s["items"].(map[string]any); ok {
			of = items
		}
		of["enum"] = known
	}
	return s
}

func jsonName(f reflect.StructField) (name string, omitempty bool) {
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, opts == "omitempty"
}

// schemas installs the schema at the root, where it applies to every rule; under any other name it
// would apply only to rules whose METADATA asks for it.
var schemas = sync.OnceValue(func() *ast.SchemaSet {
	var raw any
	if err := json.Unmarshal(Schema(), &raw); err != nil {
		panic(err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, raw)
	return set
})
