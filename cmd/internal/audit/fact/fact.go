// Package fact says in words what a leaf of a trail records, and whom and what it
// names.
//
// It knows the bodies of this version's kinds. A leaf of a kind it does not know, or
// with other fields, is told by its fields: nothing is left out because it is new.
// What it says is what the node said; whether the leaf is in the trail is for
// package trail.
//
// The package is pure.
package fact

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Fact is one leaf, read.
type Fact struct {
	Origin string    `json:"origin"` // of the trail: with Index, what proves it
	Index  uint64    `json:"index"`
	Seq    uint64    `json:"seq"`           // of the node's outbox
	At     time.Time `json:"at"`            // by the node's own clock
	Seen   time.Time `json:"seen,omitzero"` // by then its trail's witnesses had seen it; zero: not known to whoever read it
	Kind   string    `json:"kind"`
	Text   string    `json:"text"`            // one line
	Names  []string  `json:"names,omitempty"` // IDs, digests and services that the body names, sorted
	Body   any       `json:"body"`
}

// minID is how long a run of hex digits is an ID or a digest: 8 bytes.
const minID = 16

// maxID is the longest digest, in hex: more is content.
const maxID = 128

// Read tells a leaf of the trail with that origin.
func Read(origin string, l trail.Indexed) Fact {
	f := Fact{Origin: origin, Index: l.Index, Seq: l.Seq, At: l.At, Kind: l.Kind, Body: l.Plain()}
	seen := map[string]bool{}
	collect(f.Body, seen)
	body, _ := f.Body.(map[string]any)
	for _, k := range []string{"target", "service", "subject"} {
		if s := text(body, k); s != "" {
			seen[s] = true
		}
	}
	f.Names = slices.Sorted(maps.Keys(seen))
	f.Text = sentence(l.Kind, body)
	if f.Text == "" {
		f.Text = fields(f.Body)
	}
	return f
}

// About reports whether the fact names a thing: an ID in full, or a digest or a
// decision by its first digits, at least eight.
func (f Fact) About(name string) bool {
	for _, n := range f.Names {
		if n == name || len(name) >= 8 && !strings.Contains(n, ":") && IsID(n) && strings.HasPrefix(n, name) {
			return true
		}
	}
	return false
}

// Field is one field of the body as text; empty where there is none.
func (f Fact) Field(name string) string {
	body, _ := f.Body.(map[string]any)
	return text(body, name)
}

// collect finds IDs and digests, wherever in the body they are.
func collect(v any, into map[string]bool) {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "spiffe://") || IsID(v) {
			into[v] = true
		}
	case []any:
		for _, e := range v {
			collect(e, into)
		}
	case map[string]any:
		for _, e := range v {
			collect(e, into)
		}
	}
}

// IsID reports whether a text is a digest or an ID in hex.
func IsID(s string) bool {
	return len(s) >= minID && len(s) <= maxID && len(s)%2 == 0 && strings.Trim(s, "0123456789abcdef") == ""
}

func text(body map[string]any, key string) string {
	switch v := body[key].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// fields is any body on one line.
func fields(v any) string {
	body, ok := v.(map[string]any)
	if !ok {
		return plain(v)
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(body)) {
		out = append(out, k+" "+plain(body[k]))
	}
	return strings.Join(out, ", ")
}

func plain(v any) string {
	if s, ok := v.(string); ok {
		return Short(s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// Short cuts a long digest to what people compare.
func Short(s string) string {
	if IsID(s) && len(s) > minID {
		return s[:minID]
	}
	return s
}

// Node is the node's name in an origin, with its zone and epoch.
func Node(origin string) string {
	_, name, _ := strings.Cut(origin, "/trail/")
	return name
}
