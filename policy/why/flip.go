package why

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Flip is the smallest change that was found to turn an answer round.
type Flip struct {
	Found   bool     `json:"found"`
	Changes []Change `json:"changes,omitempty"` // one or two
	Level   string   `json:"level,omitempty"`   // that decides then
	Rule    string   `json:"rule,omitempty"`
	Tried   int      `json:"tried"` // questions that were asked
}

// Change is one part of the input and its other value.
type Change struct {
	Path string `json:"path"` // such as source.region
	From any    `json:"from"` // nil where it is absent
	To   any    `json:"to"`   // nil: it is taken away
}

// Bounds of a search: some tens of milliseconds of a core.
const (
	maxSingle = 1500
	maxPairs  = 2500
	pairsOf   = 80 // candidates of which two are tried together
)

// known are values of parts of the input that no policy needs to mention.
var known = map[string][]any{
	"source.standing":              {"ok", "watch", "released", "quarantined", "held", "revoked"},
	"destination.standing":         {"ok", "watch", "released", "quarantined", "held", "revoked"},
	"source.attestation.kind":      {"tpm", "devid", "unattested"},
	"destination.attestation.kind": {"tpm", "devid", "unattested"},
	"source.attestation":           {map[string]any{"kind": "tpm", "ok": true, "age_seconds": json.Number("0")}},
	"destination.attestation":      {map[string]any{"kind": "tpm", "ok": true, "age_seconds": json.Number("0")}},
	"action.name":                  {policy.Accept, policy.Dial, policy.Link},
	"attest.key":                   {"resident", "attested"},
}

// fixed are parts that make it another question, or that nobody may choose.
func fixed(path []string) bool {
	return path[0] == "v" || path[0] == "kind" || path[0] == "policy" || path[0] == "time" && len(path) == 1
}

type candidate struct {
	path  []string
	value any // nil: take it away
	rank  int
}

// search tries single changes, the most likely first, and then pairs of them.
func search(ctx context.Context, engine Engine, in policy.Input, now policy.Decision, hints []string) (f Flip, err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return f, err
	}
	base, err := object(b)
	if err != nil {
		return f, err
	}
	all := candidates(base, engine.Vocabulary(in.Kind), hints)
	try := func(cs ...candidate) bool {
		changed, err := object(b)
		if err != nil {
			return false
		}
		for _, c := range cs {
			if !set(changed, c.path, c.value) {
				return false
			}
		}
		raw, err := json.Marshal(changed)
		if err != nil {
			return false
		}
		other, err := policy.ParseInput(raw)
		if err != nil {
			return false // no node asks that
		}
		f.Tried++
		d := engine.Decide(ctx, other)
		if d.Allow == now.Allow || d.Rule == policy.RuleInput {
			return false
		}
		f.Found, f.Level, f.Rule = true, d.Level, d.Rule
		for _, c := range cs {
			f.Changes = append(f.Changes, Change{Path: strings.Join(c.path, "."), From: get(base, c.path), To: c.value})
		}
		return true
	}
	for _, c := range all[:min(len(all), maxSingle)] {
		if ctx.Err() != nil || try(c) {
			return f, ctx.Err()
		}
	}
	some := spread(all, pairsOf)
	for sum := 1; sum < 2*len(some); sum++ { // the likeliest pairs first
		for i := max(0, sum-len(some)+1); i < min(sum, len(some)) && i < sum-i; i++ {
			a, b := some[i], some[sum-i]
			if overlap(a.path, b.path) {
				continue
			}
			if ctx.Err() != nil || f.Tried >= maxSingle+maxPairs || try(a, b) {
				return f, ctx.Err()
			}
		}
	}
	return f, nil
}

// candidates are all single changes, the most likely first: of parts that a rule hangs on, then of
// what the caller is and asks for, then of the rest.
func candidates(base map[string]any, words []policy.Word, hints []string) (out []candidate) {
	likely := func(path []string) int {
		name := "input." + strings.Join(path, ".")
		if i := slices.IndexFunc(hints, func(h string) bool { return h == name || strings.HasPrefix(h, name+"[") }); i >= 0 {
			return i
		}
		order := []string{"source", "service", "action", "request", "resource", "attest", "call", "destination", "time", "self"}
		if i := slices.Index(order, path[0]); i >= 0 {
			return len(hints) + i
		}
		return len(hints) + len(order)
	}
	for _, w := range words {
		if fixed(w.Path) {
			continue
		}
		old := get(base, w.Path)
		name := strings.Join(w.Path, ".")
		for n, v := range slices.Concat(known[name], values(old, w.Values)) {
			if !equal(v, old) && possible(w.Path, v) {
				out = append(out, candidate{w.Path, v, likely(w.Path)*1000 + min(n, 999)})
			}
		}
		if old != nil && possible(w.Path, nil) {
			out = append(out, candidate{w.Path, nil, likely(w.Path)*1000 + 999})
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

// possible reports whether a node could send a value there, nil for none: a SPIFFE ID is not just
// any text that the policy mentions.
func possible(path []string, v any) bool {
	if path[len(path)-1] != "spiffe_id" {
		return true
	}
	s, ok := v.(string)
	_, err := spiffeid.FromString(s)
	return ok && err == nil
}

// values are what a part may be set to instead: what the policy mentions, in the form that the part
// has now. Where it has none now, both forms are tried; the input's schema refuses the wrong one.
func values(old any, mentioned []any) (out []any) {
	switch list := old.(type) {
	case bool:
		return []any{!list}
	case []any:
		for _, v := range mentioned {
			if s, ok := v.(string); ok && !slices.Contains(list, any(s)) {
				out = append(out, append(slices.Clone(list), s))
				for i := range list {
					other := slices.Clone(list)
					other[i] = s
					out = append(out, other)
				}
			}
		}
		return out
	case map[string]any:
		return nil
	case nil:
		out = append(out, true)
		for _, v := range mentioned {
			out = append(out, number(v))
			if s, ok := v.(string); ok {
				out = append(out, []any{s})
			}
		}
		return out
	case string:
		for _, v := range mentioned {
			if _, ok := v.(string); ok {
				out = append(out, v)
			}
		}
		return out
	}
	for _, v := range mentioned {
		if n, ok := number(v).(json.Number); ok {
			out = append(out, n)
		}
	}
	return append(out, json.Number("0"))
}

func number(v any) any {
	if n, ok := v.(int64); ok {
		return json.Number(fmt.Sprint(n))
	}
	return v
}

// spread takes the first candidates of each part in turn, so that no part crowds out the others.
func spread(all []candidate, most int) (out []candidate) {
	const each = 8
	count := map[string]int{}
	for _, c := range all {
		name := strings.Join(c.path, ".")
		if count[name]++; count[name] <= each && len(out) < most {
			out = append(out, c)
		}
	}
	return out
}

func overlap(a, b []string) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

func object(b []byte) (m map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return m, d.Decode(&m)
}

func get(m map[string]any, path []string) any {
	var at any = m
	for _, p := range path {
		in, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = in[p]
	}
	return at
}

// set puts a value at a path, making what it needs on the way, and reports whether it could.
func set(m map[string]any, path []string, v any) bool {
	for _, p := range path[:len(path)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			if m[p] != nil || v == nil {
				return false
			}
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	last := path[len(path)-1]
	if v == nil {
		_, was := m[last]
		delete(m, last)
		return was
	}
	m[last] = v
	return true
}

func equal(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equal)
	}
	switch b.(type) {
	case []any, map[string]any:
		return false
	}
	return a == b
}
