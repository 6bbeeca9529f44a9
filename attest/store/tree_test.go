package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// A tree, and what a walk over two trees shows, agree with a map.
func TestTree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var older, recent *node
	model := map[string]map[string]string{}
	type moment struct {
		older, recent *node
		want          string
	}
	var moments []moment
	for i := range 3000 {
		if i%500 == 499 { // a checkpoint's layers: what is older stays below
			older.each(func(c *change) error {
				if recent.find(c.bucket, c.key) == nil {
					recent = recent.with(c)
				}
				return nil
			})
			older, recent = recent, nil
		}
		bucket, key := fmt.Sprint("b", rng.IntN(3)), fmt.Sprint(rng.IntN(200))
		if model[bucket] == nil {
			model[bucket] = map[string]string{}
		}
		c := &change{op: opPut, bucket: bucket, key: []byte(key), value: fmt.Append(nil, i)}
		if rng.IntN(3) == 0 {
			c.op, c.value = opDelete, nil
			delete(model[bucket], key)
		} else {
			model[bucket][key] = string(c.value)
		}
		recent = recent.with(c)
		if i%100 == 0 {
			moments = append(moments, moment{older, recent, fmt.Sprint(model)})
		}
		from := fmt.Sprint(rng.IntN(200))
		keys := slices.Sorted(maps.Keys(model[bucket]))
		var want, got []string
		for _, k := range keys {
			if k >= from {
				want = append(want, k+"="+model[bucket][k])
			}
		}
		w := walk{order: 1, layers: []layer{recent.up(bucket, []byte(from)), older.up(bucket, []byte(from))}}
		for k, v := w.next(); k != nil; k, v = w.next() {
			got = append(got, string(k)+"="+string(v))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: %s from %s: %v, want %v", i, bucket, from, got, want)
		}
		w = walk{order: -1, layers: []layer{recent.last(bucket), older.last(bucket)}}
		for _, want := range slices.Backward(keys) {
			if k, v := w.next(); string(k) != want || string(v) != model[bucket][want] {
				t.Fatalf("step %d: downward %s=%s, want %s", i, k, v, want)
			}
		}
		if k, _ := w.next(); k != nil {
			t.Fatalf("step %d: downward %s after the end", i, k)
		}
	}
	for i, m := range moments { // later changes left them alone
		got := map[string]map[string]string{}
		for _, b := range []string{"b0", "b1", "b2"} {
			w := walk{order: 1, layers: []layer{m.recent.up(b, nil), m.older.up(b, nil)}}
			for k, v := w.next(); k != nil; k, v = w.next() {
				if got[b] == nil {
					got[b] = map[string]string{}
				}
				got[b][string(k)] = string(v)
			}
		}
		if i > 0 && fmt.Sprint(got) != m.want {
			t.Errorf("moment %d: %v, want %s", i, got, m.want)
		}
	}
}
