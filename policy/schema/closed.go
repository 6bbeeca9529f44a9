package schema

import (
	"encoding/json"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
)

const (
	// MaxCost is how many places a schema has with its references written out.
	MaxCost = 512
	// MaxWork bounds the places of a schema times the values in what it judges.
	MaxWork = 1 << 16
	// MaxPattern is the longest pattern, in bytes.
	MaxPattern = 256

	dialect = "https://json-schema.org/draft/2020-12/schema"
)

// form says what stands under a keyword.
type form int

const (
	plain   form = iota + 1 // no schema
	single                  // a schema
	several                 // a list of schemas
	named                   // schemas by name
)

// keywords are those a schema may have.
var keywords = map[string]form{
	"$schema": plain, "$comment": plain, "title": plain, "description": plain, "default": plain,
	"deprecated": plain, "readOnly": plain, "writeOnly": plain, "examples": plain,

	"$ref": plain, "$defs": named,
	"type": plain, "enum": plain, "const": plain, "format": plain,
	"multipleOf": plain, "maximum": plain, "exclusiveMaximum": plain, "minimum": plain, "exclusiveMinimum": plain,
	"maxLength": plain, "minLength": plain, "pattern": plain,
	"maxItems": plain, "minItems": plain, "uniqueItems": plain, "maxContains": plain, "minContains": plain,
	"maxProperties": plain, "minProperties": plain, "required": plain, "dependentRequired": plain,
	"allOf": several, "anyOf": several, "oneOf": several, "not": single, "if": single, "then": single, "else": single,
	"prefixItems": several, "items": single, "contains": single,
	"properties": named, "patternProperties": named, "additionalProperties": single, "propertyNames": single, "dependentSchemas": named,
}

// Keywords returns what a schema may say, in order.
func Keywords() []string {
	var out []string
	for k := range keywords {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Formats are the names that format may have. All are checked in time linear in the text.
var Formats = []string{"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}

// closing walks one schema before the library sees it.
type closing struct {
	src   []byte
	root  *node
	costs map[string]int // of entries of $defs; beingCounted while they are
	errs  []error
}

const beingCounted = -1

func (c *closing) bad(at int, format string, args ...any) {
	c.errs = append(c.errs, &lineError{line(c.src, at), fmt.Sprintf(format, args...)})
}

// closed returns what a schema costs, and everything it says that it may not.
func closed(src []byte, schema *node) (int, []error) {
	c := &closing{src: src, root: schema, costs: map[string]int{}}
	total := c.cost(schema, true)
	if defs := schema.member("$defs"); defs != nil {
		for _, k := range defs.keys {
			c.def(k.s, k.at) // also those that nothing refers to
		}
	}
	if total > MaxCost {
		c.bad(schema.at, "with its references written out it has more than %d places", MaxCost)
	}
	return total, c.errs
}

// add keeps sums small: beyond MaxCost they all mean too much.
func add(a, b int) int { return min(a+b, MaxCost+1) }

// cost is the number of places of a schema with its references written out.
func (c *closing) cost(n *node, top bool) int {
	if !n.object {
		if _, ok := n.scalar.(bool); !ok || n.array {
			c.bad(n.at, "want a schema: an object, true or false")
		}
		return 1
	}
	sum := 1
	for i, k := range n.keys {
		sub := n.sub[i]
		switch keywords[k.s] {
		case plain:
			sum = add(sum, c.plain(k, sub))
		case single:
			sum = add(sum, c.cost(sub, false))
		case several:
			if !sub.array {
				c.bad(sub.at, "%s: want a list of schemas", k.s)
			}
			for _, s := range sub.sub {
				sum = add(sum, c.cost(s, false))
			}
		case named:
			sum = add(sum, c.named(k, sub, top))
		default:
			c.bad(k.at, "%q is none of the keywords of a state schema", bounded.Excerpt(k.s, 64))
		}
	}
	return sum
}

func (c *closing) named(k text, n *node, top bool) (sum int) {
	if !n.object {
		c.bad(n.at, "%s: want schemas by name", k.s)
		return 1
	}
	if k.s == "$defs" {
		if !top {
			c.bad(k.at, "$defs stands at the top of a schema only")
		}
		return 0 // counted where they are referred to
	}
	for i, name := range n.keys {
		if k.s == "patternProperties" {
			sum = add(sum, c.pattern(name.s, name.at))
		}
		sum = add(sum, c.cost(n.sub[i], false))
	}
	return sum
}

func (c *closing) plain(k text, n *node) int {
	s, isText := n.scalar.(string)
	switch k.s {
	case "$schema":
		if strings.TrimSuffix(s, "#") != dialect {
			c.bad(n.at, "$schema: want %q or nothing", dialect)
		}
	case "$ref":
		name, ok := strings.CutPrefix(s, "#/$defs/")
		if !ok || strings.ContainsAny(name, "/~%") {
			c.bad(n.at, "$ref %q: want \"#/$defs/<name>\" of this file; nothing is fetched", bounded.Excerpt(s, 128))
			return 1
		}
		return c.def(name, n.at)
	case "pattern":
		if isText {
			return c.pattern(s, n.at)
		}
	case "format":
		if isText && !slices.Contains(Formats, s) {
			c.bad(n.at, "format %q: want one of %s", bounded.Excerpt(s, 64), strings.Join(Formats, ", "))
		}
	case "enum":
		return 1 + len(n.sub)/16
	case "maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains", "maxProperties", "minProperties":
		if v, ok := n.scalar.(json.Number); ok {
			if i, err := v.Int64(); err != nil || i < 0 || i > 1<<31-1 {
				c.bad(n.at, "%s %s: want a whole number below 2^31", k.s, v)
			}
		}
	}
	return 0
}

// def is the cost of an entry of $defs.
func (c *closing) def(name string, at int) int {
	switch cost, known := c.costs[name]; {
	case cost == beingCounted:
		c.bad(at, "$defs/%s refers to itself; write out as deep as values go", bounded.Excerpt(name, 64))
		return 1
	case known:
		return cost
	}
	defs := c.root.member("$defs")
	var n *node
	if defs != nil && defs.object {
		n = defs.member(name)
	}
	if n == nil {
		c.bad(at, "there is no $defs/%s", bounded.Excerpt(name, 64))
		return 1
	}
	c.costs[name] = beingCounted
	cost := c.cost(n, false)
	c.costs[name] = cost
	return cost
}

// pattern is what a pattern costs: by the size of its program.
func (c *closing) pattern(s string, at int) int {
	if len(s) > MaxPattern {
		c.bad(at, "a pattern of %d bytes, at most %d", len(s), MaxPattern)
		return 1
	}
	re, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		c.bad(at, "pattern: %v (RE2)", err)
		return 1
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		c.bad(at, "pattern: %v", err)
		return 1
	}
	return 1 + len(prog.Inst)/16
}
