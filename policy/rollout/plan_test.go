package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func canary() *Plan {
	return &Plan{Soak: 600, Rings: []Ring{
		{Name: "canary", Nodes: []string{"/node/canary-"}},
		{Name: "depot", Zones: []string{"depot"}, Classes: []string{"gateway"}},
		{Name: "some", Percent: 20},
	}}
}

func at(path, zone, class string) Node {
	return Node{ID: "spiffe://east.dev.example" + path, Path: path, Zone: zone, Class: class}
}

func TestRing(t *testing.T) {
	p := canary()
	for _, c := range []struct {
		node Node
		want string
	}{
		{at("/node/canary-1", "", "node"), "canary"},
		{at("/node/canary-1", "depot", "gateway"), "canary"}, // the first that fits
		{at("/zone/depot/node/n1", "depot", "node"), "depot"},
		{at("/node/g1", "", "gateway"), "depot"},
		{at("/zone/x/node/canary-1", "x", "node"), "all"}, // a path begins at its beginning
	} {
		nodes := []Node{c.node}
		for i := range 20 { // some of whom the 20 percent take
			nodes = append(nodes, at(fmt.Sprintf("/node/n%d", i), "", "node"))
		}
		if got := p.Name(p.Assign(7, nodes)[0]); got != c.want {
			t.Errorf("%s is in %s, want %s", c.node.ID, got, c.want)
		}
	}
}

// A percentage takes one at least of the nodes left to its ring, the same in whatever order they are
// told; and none where a ring fits nobody.
func TestPercentOfFew(t *testing.T) {
	p := &Plan{Soak: 1, Rings: []Ring{{Name: "canary", Nodes: []string{"/node/canary-"}}, {Name: "one", Percent: 1}, {Name: "next", Percent: 1}}}
	for v := range uint64(50) {
		var nodes []Node
		for i := range 5 {
			nodes = append(nodes, at(fmt.Sprintf("/node/n%d", i), "", "node"))
		}
		in := p.Assign(v, nodes)
		count := make([]int, 4)
		for _, r := range in {
			count[r]++
		}
		if count[0] != 0 || count[1] != 1 || count[2] != 1 || count[3] != 3 {
			t.Fatalf("version %d: rings of %v nodes", v, count)
		}
		slices.Reverse(nodes)
		again := p.Assign(v, nodes)
		slices.Reverse(again)
		if !slices.Equal(in, again) {
			t.Fatalf("version %d: rings %v, told the other way round %v", v, in, again)
		}
	}
}

// A share is stable for a version, another for the next, and about as large as it says.
func TestPercent(t *testing.T) {
	p := &Plan{Soak: 1, Rings: []Ring{{Name: "some", Percent: 20}}}
	var nodes []Node
	for i := range 2000 {
		nodes = append(nodes, at(fmt.Sprintf("/node/n%d", i), "", "node"))
	}
	in := map[uint64]int{}
	moved := 0
	before, after := p.Assign(0, nodes), p.Assign(1, nodes)
	for i := range nodes {
		in[0] += 1 - before[i]
		in[1] += 1 - after[i]
		if before[i] != after[i] {
			moved++
		}
	}
	if again := p.Assign(0, nodes[:1000]); !slices.Equal(again, before[:1000]) {
		t.Error("a node is in another ring where fewer are known")
	}
	for v, n := range in {
		if n < 340 || n > 460 {
			t.Errorf("version %d: %d of 2,000 nodes, want about 400", v, n)
		}
	}
	if moved < 400 {
		t.Errorf("only %d nodes are in another ring of the next version", moved)
	}
}

func TestCheckNamesEveryMistake(t *testing.T) {
	if err := canary().Check(); err != nil {
		t.Error(err)
	}
	long := strings.Repeat("x", 257)
	bad := &Plan{Soak: 0, Limit: Limits{DeniedPercent: 101}, Rings: []Ring{
		{Name: "A"}, {Name: "b", Percent: 101}, {Name: "b"}, {Name: "c", Zones: []string{long}}, {Name: "d", Nodes: []string{"node/x"}}, {Name: "e", Classes: []string{""}},
	}}
	err := bad.Check()
	for _, want := range []string{"soak_seconds is 0", "denied_percent is 101 and failed_percent 0", `name "A"`, "ring b: percent is 101", `ring 3: name "b"`, "too long", "begins with /", `selector ""`} {
		if err == nil || !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
	for _, p := range []*Plan{{Soak: 1}, {Soak: 1, Rings: make([]Ring, MaxRings+1)}, {Soak: MaxSoak + 1, Rings: []Ring{{Name: "a"}}}} {
		if err := p.Check(); !errors.Is(err, ErrPlan) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestParse(t *testing.T) {
	p, err := Parse([]byte(`{"rings": [{"name": "canary", "nodes": ["/node/east-n1"], "percent": 50}], "soak_seconds": 600, "limits": {"denied_percent": 2}}`))
	if err != nil || len(p.Rings) != 1 || p.Rings[0].Percent != 50 || p.Soak != 600 || p.Limit.DeniedPercent != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "{}", `{"rings":[{"name":"a"}],"soak_seconds":1}{}`, `{"rings":[{"name":"a","zone":"b"}],"soak_seconds":1}`, `{"rings":[{"name":"a"}],"soak":1}`, strings.Repeat(" ", MaxFile+1)} {
		if _, err := Parse([]byte(bad)); !errors.Is(err, ErrPlan) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"rings": [{"name": "canary", "zones": ["z"]}], "soak_seconds": 600}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		n := at("/node/n1", "z", "node")
		if r := p.Assign(1, []Node{n})[0]; r < 0 || r > len(p.Rings) || p.Name(r) == "" {
			t.Errorf("ring %d of %d", r, len(p.Rings))
		}
	})
}
