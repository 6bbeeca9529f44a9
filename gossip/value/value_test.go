package value

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const t0 = 1_790_000_000_000_000

// node is an owner with what it has heard of the others.
type node struct {
	name string
	seen State
	skew uint64
	seq  uint64
	rank int
}

// change writes as the sidecar does, and returns what it signed.
func (n *node) change(c Change, now uint64) (Signed, error) {
	now += n.skew
	p, err := c.Apply(n.seen, n.name, now)
	if err != nil {
		return Signed{}, err
	}
	n.seq++
	s := Signed{Part: p, Version: Version{1, n.seq}, At: now, Rank: n.rank}
	n.hear(n.name, s)
	return s, nil
}

func (n *node) hear(owner string, s Signed) { n.seen = Join(n.seen, State{owner: s}) }

func nodes(n int) (out []*node) {
	for i := range n {
		out = append(out, &node{name: fmt.Sprintf("/node/n%d", i), seen: State{}})
	}
	return out
}

// meet lets all know what any knows.
func meet(all []*node) {
	whole := State{}
	for _, n := range all {
		whole = Join(whole, n.seen)
	}
	for _, n := range all {
		n.seen = Join(n.seen, whole)
	}
}

func read(t *testing.T, s State, typ Type) string {
	t.Helper()
	b, err := s.Read(typ)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// random is some change of a type.
func random(r *rand.Rand, t Type) Change {
	pick := func() string { return string(rune('a' + r.IntN(5))) }
	switch t {
	case Register:
		return Change{Value: json.RawMessage(fmt.Sprint(r.IntN(100)))}
	case Counter:
		return Change{Increment: int64(r.IntN(9) - 4)}
	case Set:
		if r.IntN(3) == 0 {
			return Change{Remove: []string{pick()}}
		}
		return Change{Add: []string{pick()}}
	}
	if r.IntN(3) == 0 {
		return Change{Unset: []string{pick()}}
	}
	return Change{Set: map[string]json.RawMessage{pick(): json.RawMessage(fmt.Sprint(r.IntN(100)))}}
}

// history is a run of random nodes and every state that any of them was in.
func history(t *testing.T, seed uint64, typ Type) (all []*node, states []State) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	all = nodes(4)
	for _, n := range all {
		n.skew, n.rank = uint64(r.IntN(500_000)), r.IntN(2)
	}
	type message struct {
		owner string
		s     Signed
	}
	var sent []message
	for i := range 60 {
		n := all[r.IntN(len(all))]
		if r.IntN(2) == 0 && len(sent) > 0 { // any record, in any order, also again
			m := sent[r.IntN(len(sent))]
			n.hear(m.owner, m.s)
		} else if s, err := n.change(random(r, typ), t0+uint64(i)*1000); err == nil {
			sent = append(sent, message{n.name, s})
		} else if !errors.Is(err, ErrNoElement) && !errors.Is(err, ErrType) {
			t.Fatal(err)
		}
		states = append(states, n.seen)
	}
	return all, states
}

func within(a, b State) bool { // b has what a has, or newer
	for owner, s := range a {
		if o, ok := b[owner]; !ok || o.older(s) {
			return false
		}
	}
	return true
}

// The laws of a join, over states that nodes come to.
func TestLaws(t *testing.T) {
	for _, typ := range Types {
		for seed := range uint64(40) {
			_, states := history(t, seed, typ)
			r := rand.New(rand.NewPCG(seed, 8))
			for range 50 {
				a, b, c := states[r.IntN(len(states))], states[r.IntN(len(states))], states[r.IntN(len(states))]
				ab := Join(a, b)
				switch {
				case !reflect.DeepEqual(ab, Join(b, a)):
					t.Fatalf("%s %d: not commutative", typ, seed)
				case !reflect.DeepEqual(Join(ab, c), Join(a, Join(b, c))):
					t.Fatalf("%s %d: not associative", typ, seed)
				case !reflect.DeepEqual(Join(a, a), Join(State{}, a)) || !reflect.DeepEqual(Join(ab, a), ab):
					t.Fatalf("%s %d: not idempotent", typ, seed)
				case !within(a, ab) || !within(b, ab):
					t.Fatalf("%s %d: a join lost something", typ, seed)
				case within(a, b) != reflect.DeepEqual(Join(a, b), Join(State{}, b)):
					t.Fatalf("%s %d: the order is not the join's", typ, seed)
				}
			}
		}
	}
}

// Those who hold the same parts read the same, by whatever way they came.
func TestReadersAgree(t *testing.T) {
	for _, typ := range Types {
		for seed := range uint64(40) {
			all, states := history(t, seed, typ)
			meet(all)
			want := read(t, all[0].seen, typ)
			r := rand.New(rand.NewPCG(seed, 9))
			r.Shuffle(len(states), func(i, j int) { states[i], states[j] = states[j], states[i] })
			late := State{}
			for _, s := range states {
				late = Join(late, s)
			}
			for i, s := range []State{all[1].seen, all[2].seen, all[3].seen, late} {
				if got := read(t, s, typ); got != want {
					t.Fatalf("%s %d: reader %d has %s, want %s", typ, seed, i, got, want)
				}
			}
		}
	}
}

// A counter is the sum of all that was counted, and nobody's count of increments falls.
func TestCounterCountsEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	all, sum := nodes(5), int64(0)
	for range 200 {
		n := all[r.IntN(5)]
		by := int64(r.IntN(100) - 30)
		if by == 0 {
			continue
		}
		if _, err := n.change(Change{Increment: by}, t0); err != nil {
			t.Fatal(err)
		}
		sum += by
		if r.IntN(4) == 0 {
			meet(all)
		}
	}
	meet(all)
	if got := all[0].seen.Count(); got != sum {
		t.Errorf("%d, want %d", got, sum)
	}
}

func TestCounterEnds(t *testing.T) {
	s := State{}
	for i := range 5000 {
		s[fmt.Sprint(i)] = Signed{Part: Part{Type: Counter, inc: maxNumber, dec: 0}}
	}
	if got := s.Count(); got != 1<<63-1 {
		t.Errorf("%d", got)
	}
	for owner := range s {
		s[owner] = Signed{Part: Part{Type: Counter, dec: maxNumber}}
	}
	if got := s.Count(); got != -(1<<63 - 1) {
		t.Errorf("%d", got)
	}
	n := nodes(1)[0]
	if _, err := n.change(Change{Increment: 1 << 53}, t0); !errors.Is(err, ErrPart) {
		t.Errorf("too much at once: %v", err)
	}
}

// Removing takes what was seen: an add that the remover had not heard of stays, also one
// of the same element, and the same owner may add again.
func TestSetAddsWin(t *testing.T) {
	all := nodes(3)
	a, b, c := all[0], all[1], all[2]
	must := func(n *node, ch Change) {
		t.Helper()
		if _, err := n.change(ch, t0); err != nil {
			t.Fatal(err)
		}
	}
	must(a, Change{Add: []string{"x", "y"}})
	must(b, Change{Add: []string{"x"}})
	c.seen = Join(c.seen, a.seen) // c knows of a's x only
	must(c, Change{Remove: []string{"x", "y"}})
	if got := read(t, c.seen, Set); got != "[]" {
		t.Errorf("the remover has %s", got)
	}
	meet(all)
	if got := read(t, a.seen, Set); got != `["x"]` {
		t.Errorf("b's x had not been seen: %s", got)
	}
	must(a, Change{Remove: []string{"x"}})
	meet(all)
	must(b, Change{Add: []string{"x"}})
	meet(all)
	if got := read(t, c.seen, Set); got != `["x"]` {
		t.Errorf("added again: %s", got)
	}
	must(a, Change{Add: []string{"w"}})
	meet(all)
	must(a, Change{Remove: []string{"w"}})
	must(c, Change{Remove: []string{"w"}})
	meet(all)
	must(a, Change{Add: []string{"w"}})
	meet(all)
	if got := read(t, c.seen, Set); got != `["w","x"]` {
		t.Errorf("added again in the same instant, after two removed it: %s", got)
	}
	if _, err := c.change(Change{Remove: []string{"z"}}, t0); !errors.Is(err, ErrNoElement) {
		t.Errorf("never there: %v", err)
	}
}

// A removal names the adds that are there and no others: not its owner's own, which goes, and
// none that somebody removed already.
func TestSetRemovalsAreFew(t *testing.T) {
	all := nodes(4)
	for _, step := range []struct {
		by     int
		change Change
	}{
		{0, Change{Add: []string{"x"}}},
		{1, Change{Remove: []string{"x"}}},
		{2, Change{Add: []string{"x"}}},
		{3, Change{Add: []string{"x"}}},
		{3, Change{Remove: []string{"x"}}},
	} {
		if _, err := all[step.by].change(step.change, t0); err != nil {
			t.Fatal(err)
		}
		meet(all)
	}
	last := all[3]
	if got := slices.Sorted(maps.Keys(last.seen[last.name].removed["x"])); !slices.Equal(got, []string{all[2].name}) || len(last.seen.Elements()) > 0 {
		t.Errorf("removed the adds of %v, left %v", got, last.seen.Elements())
	}
}

// Clocks that are apart as far as receivers allow neither keep a removal from working nor
// let an older write win; one that lies about its times gains a second.
func TestClocks(t *testing.T) {
	all := nodes(2)
	fast, slow := all[0], all[1]
	fast.skew = 500_000
	if _, err := fast.change(Change{Add: []string{"x"}}, t0); err != nil {
		t.Fatal(err)
	}
	meet(all)
	if _, err := slow.change(Change{Remove: []string{"x"}}, t0+10); err != nil {
		t.Fatal(err)
	}
	if got := read(t, slow.seen, Set); got != "[]" {
		t.Errorf("the removal does not work: %s", got)
	}

	all = nodes(2)
	fast, slow = all[0], all[1]
	fast.skew = 500_000
	if _, err := fast.change(Change{Set: map[string]json.RawMessage{"f": json.RawMessage("1")}}, t0); err != nil {
		t.Fatal(err)
	}
	meet(all)
	if _, err := slow.change(Change{Set: map[string]json.RawMessage{"f": json.RawMessage("2")}}, t0+10); err != nil {
		t.Fatal(err)
	}
	if got := read(t, slow.seen, Map); got != `{"f":2}` {
		t.Errorf("the later write lost: %s", got)
	}

	const far = uint64(maxNumber)
	liar := Signed{Part: Part{Type: Set, removed: map[string]map[string]uint64{"x": {"/node/n1": far}}}, Version: Version{1, 1}, At: t0}
	honest := &node{name: "/node/n1", seen: State{"/node/liar": liar}}
	if _, err := honest.change(Change{Add: []string{"x"}}, t0+2*slack); err != nil {
		t.Fatal(err)
	}
	honest.seen = Join(honest.seen, State{"/node/liar": liar})
	if got := read(t, honest.seen, Set); got != `["x"]` {
		t.Errorf("a removal of what is to come: %s", got)
	}
	s := State{
		"/node/liar": {Part: Part{Type: Map, fields: map[string]field{"f": {far, json.RawMessage(`"lie"`)}}}, At: t0},
		"/node/n1":   {Part: Part{Type: Map, fields: map[string]field{"f": {t0 + 2*slack, json.RawMessage(`"now"`)}}}, At: t0 + 2*slack},
	}
	if got := read(t, s, Map); got != `{"f":"now"}` {
		t.Errorf("a write of what is to come: %s", got)
	}
}

func TestRegisterRank(t *testing.T) {
	s := State{
		"/node/a": {Part: Part{Type: Register, register: json.RawMessage(`"a"`)}, At: 9},
		"/node/b": {Part: Part{Type: Register, register: json.RawMessage(`"b"`)}, At: 5, Rank: 1},
	}
	if got := read(t, s, Register); got != `"b"` {
		t.Errorf("the authority's lost: %s", got)
	}
	delete(s, "/node/b")
	if got := read(t, s, Register); got != `"a"` {
		t.Errorf("%s", got)
	}
	if got := read(t, State{}, Register); got != "null" {
		t.Errorf("%s", got)
	}
}

func TestTypes(t *testing.T) {
	s := State{"/node/a": {Part: Part{Type: Counter, inc: 3}}, "/node/b": {Part: Part{Type: Set}}}
	if _, err := s.TypeOf(); !errors.Is(err, ErrType) {
		t.Errorf("mixed: %v", err)
	}
	if got := s.Count(); got != 3 {
		t.Errorf("%d", got)
	}
	if _, err := (Change{Add: []string{"x"}}).Apply(s, "/node/a", t0); !errors.Is(err, ErrType) {
		t.Errorf("a set's change of a counter: %v", err)
	}
	delete(s, "/node/b")
	s["/node/c"] = Signed{Part: Part{Type: Counter, inc: 1}}
	if got, err := s.TypeOf(); got != Counter || err != nil {
		t.Errorf("two counters are a %q, %v", got, err)
	}
	if got, err := (State{}).TypeOf(); got != "" || err != nil {
		t.Errorf("nothing is a %q, %v", got, err)
	}
	r := State{"/node/a": {Part: Part{Type: Register, register: json.RawMessage("1")}, At: 1}, "/node/b": {Part: Part{Type: Counter, inc: 1}, At: 2}}
	if got := read(t, r, Register); got != "1" {
		t.Errorf("a counter beside a register took its place: %s", got)
	}
	for _, c := range []Change{{Value: json.RawMessage("{")}, {Set: map[string]json.RawMessage{"f": json.RawMessage("{")}}} {
		if _, err := c.Apply(State{}, "/node/a", t0); !errors.Is(err, ErrPart) {
			t.Errorf("what is no JSON: %v", err)
		}
	}
	if _, err := (Change{Unset: []string{"f"}}).Apply(State{}, "/node/a", t0); !errors.Is(err, ErrNoElement) {
		t.Errorf("a field that never was: %v", err)
	}
	for _, c := range []Change{{}, {Increment: 1, Add: []string{"x"}}} {
		if _, err := c.Type(); !errors.Is(err, ErrType) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := s.Read("list"); !errors.Is(err, ErrType) {
		t.Errorf("%v", err)
	}
}

func TestParse(t *testing.T) {
	many := map[string]uint64{}
	for i := range MaxEntries + 1 {
		many[fmt.Sprint(i)] = 1
	}
	big, _ := json.Marshal(map[string]any{"set": map[string]any{"add": many}})
	gone, _ := json.Marshal(map[string]any{"set": map[string]any{"removed": map[string]any{"x": many}}})
	for _, bad := range []string{
		``, `1`, `[]`, `{}`, `null`, `{"list": []}`, `{"counter": {}, "set": {}}`, `{"Counter": {}}`, `{"counter": {"INC": 1}}`, `{"counter": {"inc": -1}}`,
		`{"counter": {"inc": 1.5}}`, `{"counter": {"inc": 9007199254740992}}`, `{"counter": []}`, `{"counter": {}} x`, `{"set": {"add": ["x"]}}`, `{"set": {"add": {"": 1}}}`,
		`{"set": {"add": {"` + strings.Repeat("x", MaxElement+1) + `": 1}}}`, `{"map": {"f": 1}}`, `{"map": {"f": {"at": 1, "valeu": 2}}}`, "{\"register\": \"\xff\"}",
		`{"register": "` + strings.Repeat("x", MaxPart) + `"}`, string(big), string(gone),
	} {
		if p, err := Parse([]byte(bad)); !errors.Is(err, ErrPart) {
			t.Errorf("%.60s: %+v, %v", bad, p, err)
		}
	}
	for _, good := range []string{
		`{"register":{"a":[1,null]}}`, `{"register":null}`, `{"counter":{"inc":5,"dec":2}}`, `{"set":{"add":{"x":1},"removed":{"y":{"/node/n2":3}}}}`, `{"set":{}}`,
		`{"map":{"f":{"at":1,"value":null},"g":{"at":2}}}`,
	} {
		p, err := Parse([]byte(good))
		if err != nil {
			t.Errorf("%s: %v", good, err)
			continue
		}
		if b, err := p.Encode(); err != nil || string(b) != good {
			t.Errorf("%s comes back as %s, %v", good, b, err)
		}
	}
}

// A part that is full is refused, and what it was stays.
func TestPartIsBounded(t *testing.T) {
	n := nodes(1)[0]
	var last error
	for i := 0; last == nil && i <= MaxEntries; i++ {
		_, last = n.change(Change{Add: []string{strings.Repeat("x", 100) + fmt.Sprint(i)}}, t0)
	}
	if !errors.Is(last, ErrPart) || len(n.seen.Elements()) < 100 {
		t.Errorf("%v after %d", last, len(n.seen.Elements()))
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"register":1}`, `{"counter":{"inc":5,"dec":2}}`, `{"set":{"add":{"x":1},"removed":{"y":{"/node/n2":3}}}}`, `{"map":{"f":{"at":1,"value":2}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		first, err := p.Encode()
		if errors.Is(err, ErrPart) {
			return // written wider than it came: it fits no more
		}
		again, err := Parse(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second, err := again.Encode(); err != nil || string(second) != string(first) {
			t.Fatalf("%s becomes %s, %v", first, second, err)
		}
		s := State{"/node/a": {Part: p, At: t0}}
		for _, typ := range slices.Sorted(maps.Keys(map[Type]bool{p.Type: true})) {
			if out, err := s.Read(typ); err != nil || !json.Valid(out) {
				t.Fatalf("%s reads as %s, %v", b, out, err)
			}
		}
	})
}
