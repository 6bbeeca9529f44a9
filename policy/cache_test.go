package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
)

// leaves lists the paths of the input that have a value of their own, from the type.
func leaves(t reflect.Type, at inputPath) (out []inputPath) {
	for f := range t.Fields() {
		name, _ := jsonName(f)
		p, ft := append(slices.Clone(at), name), f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			out = append(out, leaves(ft, p)...)
		} else {
			out = append(out, p)
		}
	}
	return out
}

var (
	inputLeaves = leaves(reflect.TypeFor[Input](), nil)
	words       = []string{"", "", "east", "west", "web", "ok", "held", "a", "b", Dial, Accept, "renew"}
)

// fill gives a value of any type of the input something small, so that questions repeat.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Pointer:
		v.SetZero()
		if r.IntN(5) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem())
		}
	case reflect.String:
		s := words[r.IntN(len(words))]
		switch r.IntN(200) {
		case 0:
			s = "\xff"
		case 1:
			s = strings.Repeat("l", MaxString+1)
		case 2:
			s = strings.Repeat("m", MaxString)
		}
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(r.IntN(3)))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(r.IntN(3)))
	case reflect.Slice:
		v.SetZero()
		for range r.IntN(3) {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(r, e)
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		v.SetZero()
		if r.IntN(3) > 0 || v.Type().Elem().Kind() == reflect.Struct {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(r, e)
			v.SetMapIndex(reflect.ValueOf(words[r.IntN(len(words))]), e)
		}
	case reflect.Interface:
		v.Set(reflect.ValueOf(words[r.IntN(len(words))]))
	}
}

// randomInput is an input of a kind with random facts, mostly a valid one.
func randomInput(r *rand.Rand, kind Kind) (in Input) {
	fill(r, reflect.ValueOf(&in).Elem())
	in.V, in.Kind, in.Time.Unix = InputVersion, kind, now.Unix()+int64(r.IntN(4))
	v := reflect.ValueOf(&in).Elem()
	for i := range v.NumField() {
		name, _ := jsonName(v.Type().Field(i))
		switch bit := slices.Index(sectionNames[:], name); {
		case bit < 0:
		case (shapes[kind].must|shapes[kind].may)>>bit&1 == 0:
			v.Field(i).SetZero()
		case shapes[kind].must>>bit&1 != 0:
			for v.Field(i).IsNil() {
				fill(r, v.Field(i))
			}
		}
	}
	if in.Time.Until != 0 {
		in.Time.Until += now.Unix()
	}
	return in
}

// vary changes one random fact.
func vary(r *rand.Rand, in Input) Input {
	b, _ := json.Marshal(in)
	var out Input
	if json.Unmarshal(b, &out) != nil {
		return in
	}
	for v := reflect.ValueOf(&out).Elem(); ; {
		v = v.Field(r.IntN(v.NumField()))
		if v.Kind() == reflect.Pointer && !v.IsNil() && r.IntN(8) > 0 {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			fill(r, v)
			break
		}
	}
	out.V, out.Kind = in.V, in.Kind
	if out.Time.Unix < 1e6 {
		out.Time.Unix = in.Time.Unix
	}
	return out
}

// randomCondition reads the input in one of the ways that Rego has.
func randomCondition(r *rand.Rand, name string, kind Kind) string {
	leaf := inputLeaves[r.IntN(len(inputLeaves))]
	for !slices.Contains(shapes[kind].fields(), leaf[0]) {
		leaf = inputLeaves[r.IntN(len(inputLeaves))]
	}
	dotted := "input." + strings.Join(leaf, ".")
	parent := "input"
	if len(leaf) > 1 {
		parent += "." + strings.Join(leaf[:len(leaf)-1], ".")
	}
	last := leaf[len(leaf)-1]
	fixed := [...]string{
		"input.source.labels.a", "count(input.source.labels) == 1", "input.source.path[1] == input.source.node",
		"input.source.region in data.regions", "time.parse_rfc3339_ns(input.source.zone) > 0", "input.source", "not input.destination",
	}
	if c := fixed[r.IntN(len(fixed))]; r.IntN(3) == 0 && slices.Contains(shapes[kind].fields(), strings.FieldsFunc(c[strings.Index(c, "input.")+6:], func(c rune) bool { return !unicode.IsLetter(c) })[0]) {
		return c
	}
	return [...]string{
		"true",
		dotted,
		"not " + dotted,
		fmt.Sprintf("sprint(%s) == %q", dotted, words[r.IntN(len(words))]),
		fmt.Sprintf("x := %s\n\tx.%s", parent, last),
		fmt.Sprintf("some k\n\t%s[k]\n\tk == %q", parent, last),
		fmt.Sprintf("object.get(%s, %q, 7) == 7", parent, last),
		"count(object.keys(" + parent + ")) > 3",
		"count([x | some x in " + parent + "]) > 3",
		"input.policy.levels." + name + ".age_seconds > 2",
		"count(input) > 6",
	}[r.IntN(11)]
}

// randomPolicy has rules for a kind at a level, some of them through helpers.
func randomPolicy(r *rand.Rand, name string, kind Kind) Level {
	var b strings.Builder
	for i := range 1 + r.IntN(3) {
		verb := [...]string{"deny", "allow", "allow"}[r.IntN(3)]
		one, two := randomCondition(r, name, kind), randomCondition(r, name, kind)
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "%s contains \"r%d\" if helper%d(1)\nhelper%d(one) if {\n\tone == 1\n\t%s\n\t%s\n}\n", verb, i, i, i, one, two)
		} else {
			fmt.Fprintf(&b, "%s contains \"r%d\" if {\n\t%s\n\t%s\n}\n", verb, i, one, two)
		}
		switch {
		case verb == "allow" && kind == StateAdmit:
			fmt.Fprintf(&b, "grant[\"r%d\"] := {\"prefix\": \"/%s\", \"scope\": \"zone\", \"bytes\": 1, \"rate\": 1}\n", i, name)
		case verb == "allow" && kind == Quarantine:
			fmt.Fprintf(&b, "thresholds[\"r%d\"] := {\"cap_percent\": %d}\n", i, 1+slices.Index(levelOrder, name))
		}
	}
	body := b.String()
	if strings.Contains(body, "sprint(") {
		body += "sprint(x) := concat(\"\", [s | some s in [x]; is_string(s)])\n"
	}
	l := level(name, kind, body)
	l.Data = map[string]any{"regions": []any{"east"}}
	if name != Global {
		l.Delegation = Delegation{Kinds: []Kind{kind}, Regions: pick(r, "east", "west"), Services: pick(r, "web", "a*")}
		if r.IntN(4) == 0 {
			l.Delegation.Kinds = []Kind{Kinds[r.IntN(len(Kinds))]}
		}
	}
	if r.IntN(2) == 0 {
		l.NotAfter = now.Add(time.Duration(r.IntN(4)) * time.Second)
	}
	l.Signed, l.Required = now.Add(-time.Second), r.IntN(2) == 0
	return l
}

// randomStack is one to three levels.
func randomStack(t *testing.T, r *rand.Rand, kind Kind) (out []Level) {
	for _, name := range levelOrder[:1+r.IntN(3)] {
		out = append(out, drawn(t, r, name, kind))
	}
	return out
}

// sameAnswer compares what does not differ from one asking to the next.
func sameAnswer(a, b Decision) bool {
	a.ID, b.ID, a.Cached, b.Cached = "", "", false, false
	return reflect.DeepEqual(a, b)
}

// A cached decision is the one that evaluation would give: for any policy, any input, any change of
// one fact, and after any change of generation.
func FuzzCachedEqualsEvaluated(f *testing.F) {
	for seed := range uint64(24) {
		f.Add(seed)
	}
	asks, hits := 0, 0
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 2))
		kind := Kinds[r.IntN(len(Kinds))]
		unhurried := Config{Cache: -1, Deadline: time.Hour} // a machine that stalls is no other answer
		cached, plain, whole := New(Config{Deadline: time.Hour}), New(unhurried), New(unhurried)
		stacks := [][]Level{randomStack(t, r, kind), randomStack(t, r, kind)}
		var asked []Input
		for i := range 300 {
			if i%60 == 0 {
				stack := stacks[i/60%2]
				if err := cached.Activate(stack...); err != nil {
					t.Fatal(err)
				}
				for _, e := range []*Engine{plain, whole} {
					if err := e.Activate(stack...); err != nil {
						t.Fatal(err)
					}
				}
				whole.gen.Load().views = nil // its rules see everything
			}
			in := randomInput(r, kind)
			if len(asked) > 0 && r.IntN(4) > 0 {
				in = asked[r.IntN(len(asked))]
				if r.IntN(2) == 0 {
					in = vary(r, in)
				}
			}
			asked = append(asked, in)
			asks++
			want := plain.Decide(t.Context(), in)
			if _, err := in.value(); err == nil {
				if all := whole.Decide(t.Context(), in); !sameAnswer(all, want) {
					t.Fatalf("on the view\n%s\non all of the input\n%s\n%s", want.Explain(), all.Explain(), all.Input)
				}
			}
			if d := cached.Recall(in); d != nil {
				hits++
				short := want
				short.Input = nil
				short.At = d.At
				if !sameAnswer(*d, short) {
					t.Fatalf("recalled\n%s\nevaluated\n%s\n%s", d.Explain(), want.Explain(), want.Input)
				}
			}
			if got := cached.Decide(t.Context(), in); !sameAnswer(got, want) {
				t.Fatalf("cached %t\n%s\n%s\nevaluated\n%s\n%s", got.Cached, got.Explain(), got.Input, want.Explain(), want.Input)
			}
		}
	})
	if asks > 0 && hits == 0 { // a fuzzer's workers are processes of their own
		f.Error("nothing was ever recalled")
	}
}

// What the rules of a level read, and no more, is in the key.
func TestProjection(t *testing.T) {
	base := connect()
	base.Destination = &Peer{Standing: "ok"}
	for name, tt := range map[string]struct {
		rule    string
		differ  []func(*Input) // another question
		similar []func(*Input) // the same one
	}{
		"a field": {`allow contains "a" if input.service.port == 8080`,
			[]func(*Input){func(in *Input) { in.Service.Port = 1 }},
			[]func(*Input){func(in *Input) { in.Service.Protocol = "udp" }, func(in *Input) { in.Source.Zone = "z" }, func(in *Input) { in.Time.Unix++ },
				func(in *Input) { in.Source.Attestation = nil }, func(in *Input) { in.Source.Labels = map[string]string{"x": "y"} }}},
		"standing, unasked": {`allow contains "a" if true`,
			[]func(*Input){func(in *Input) { in.Source.Standing = "held" }, func(in *Input) { in.Destination.Standing = "held" }}, nil},
		"one label": {`allow contains "a" if input.source.labels.tier == "gold"`,
			[]func(*Input){func(in *Input) { in.Source.Labels = map[string]string{"tier": "gold"} }, func(in *Input) { in.Source.Labels = map[string]string{"tier": ""} }},
			[]func(*Input){func(in *Input) { in.Source.Labels = map[string]string{"a": "b"} }}},
		"any label": {`allow contains "a" if some x in input.source.labels`,
			[]func(*Input){func(in *Input) { in.Source.Labels = map[string]string{"a": "c"} }},
			[]func(*Input){func(in *Input) { in.Source.Zone = "z" }}},
		"a variable": {"allow contains \"a\" if {\n\tp := input.source\n\tp.zone == \"z\"\n}",
			[]func(*Input){func(in *Input) { in.Source.Zone = "z" }},
			[]func(*Input){func(in *Input) { in.Destination.Zone = "z" }}},
		"everything": {`allow contains "a" if count(input) > 1`,
			[]func(*Input){func(in *Input) { in.Service.Protocol = "udp" }, func(in *Input) { in.Time.Unix++ }}, nil},
		"the age of a level": {`allow contains "a" if input.policy.levels.global.age_seconds < 10`,
			[]func(*Input){func(in *Input) { in.Time.Unix++ }},
			[]func(*Input){func(in *Input) { in.Source.Zone = "z" }}},
	} {
		t.Run(name, func(t *testing.T) {
			e := engine(t, Config{}, level(Global, Connect, tt.rule))
			e.Decide(t.Context(), base)
			for i, change := range slices.Concat(tt.differ, tt.similar, []func(*Input){func(*Input) {}}) {
				b, _ := json.Marshal(base)
				var in Input
				if err := json.Unmarshal(b, &in); err != nil {
					t.Fatal(err)
				}
				change(&in)
				if known, want := e.Recall(in) != nil, i >= len(tt.differ); known != want {
					t.Errorf("change %d: known %t, want %t", i, known, want)
				}
			}
		})
	}
}

// An answer ends with its generation, with the policy and with the facts it rests on.
func TestAnswersEnd(t *testing.T) {
	l := level(Global, Connect, `allow contains "a" if true`)
	l.NotAfter = now.Add(10 * time.Second)
	e := engine(t, Config{}, l)
	in := connect()
	in.Time.Until = now.Unix() + 5
	if e.Recall(in) != nil || !e.Decide(t.Context(), in).Allow || e.Recall(in) == nil {
		t.Fatal("not remembered")
	}
	later := in
	later.Time.Unix += 6
	if d := e.Decide(t.Context(), later); e.Recall(later) != nil || d.Allow || d.Rule != RuleEnded {
		t.Errorf("after the facts: %s", d.Explain())
	}
	later.Time.Until = 0
	if d := e.Recall(later); d == nil || !d.Allow {
		t.Error("facts that were renewed are other facts")
	}
	later.Time.Unix += 5
	if d := e.Decide(t.Context(), later); d.Allow || d.Rule != RuleExpired {
		t.Errorf("after the policy: %s", d.Explain())
	}
	if err := e.Activate(l); err != nil || e.Recall(in) != nil {
		t.Errorf("after the generation: %v", err)
	}
}

// What failed is asked again: it may have been for want of time.
func TestFailuresAreNotRemembered(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "a" if time.parse_rfc3339_ns(input.source.region) > 0`))
	if d := e.Decide(t.Context(), connect()); d.Rule != RuleError || e.Recall(connect()) != nil {
		t.Errorf("%s", d.Explain())
	}
	e = engine(t, Config{}, level(Global, Connect, `allow contains "a" if not input.source.zone == "z"`))
	broken := connect()
	broken.Source.Zone = "\xff"
	e.Decide(t.Context(), connect())
	if d := e.Decide(t.Context(), broken); d.Rule != RuleInput || e.Recall(broken) != nil || e.Recall(connect()) == nil {
		t.Errorf("an input that is refused: %s", d.Explain())
	}
	if New(Config{}).Recall(connect()) != nil || new(Engine).Recall(connect()) != nil {
		t.Error("an engine without policy knows an answer")
	}
}

// What no rule reads is not held to the limits of an input, and is left out of a record that it
// would make too large. The record replays.
func TestUnreadIsNotJudged(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "a" if input.source.region == "east"`))
	in := connect()
	in.Source.Zone, in.Source.Labels = "\xff", map[string]string{"a": strings.Repeat("x", MaxInput)}
	d := e.Decide(t.Context(), in)
	if !d.Allow || len(d.Input) > 1000 || e.Recall(in) == nil {
		t.Fatalf("%s, %d bytes of record", d.Explain(), len(d.Input))
	}
	again, err := ParseInput(d.Input)
	if err != nil {
		t.Fatal(err)
	}
	if r := e.Decide(t.Context(), again); r.Rule != d.Rule || again.Time != in.Time || r.Source != d.Source || r.Target != d.Target {
		t.Errorf("replayed: %s", r.Explain())
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(64)
	room := len(c.sets) * len(cacheSet{})
	key := func(i int) []byte { return fmt.Append(nil, "key", i) }
	c.put(key(0), Decision{Rule: "kept"})
	for i := range 10 * room {
		c.put(key(i+1), Decision{Rule: fmt.Sprint(i)})
		if d := c.get(key(0)); d == nil || d.Rule != "kept" {
			t.Fatalf("what is asked for all the time was forgotten after %d others", i)
		}
	}
	n := 0
	for i := range 10*room + 1 {
		if d := c.get(key(i)); d != nil {
			n++
			if i > 0 && d.Rule != fmt.Sprint(i-1) {
				t.Errorf("key %d has the answer of %s", i, d.Rule)
			}
		}
	}
	if n > room || n < room/2 {
		t.Errorf("%d are known, there is room for %d", n, room)
	}
}

// While generations come and go, an answer is always of a generation in force when it was asked.
func TestRecallWhileGenerationsSwap(t *testing.T) {
	yes, no := level(Global, Connect, `allow contains "yes" if true`), level(Global, Connect, `deny contains "no" if true`)
	e := engine(t, Config{}, yes)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d := e.Decide(t.Context(), connect())
				if d.Allow != (d.Rule == "yes") || strings.HasPrefix(d.Revision, "none") {
					t.Errorf("mixed: %s", d.Explain())
					return
				}
				e.Recall(connect())
			}
		})
	}
	for range 20 {
		for _, l := range []Level{no, yes} {
			if err := e.Activate(l); err != nil {
				t.Error(err)
			}
			if d := e.Decide(t.Context(), connect()); d.Allow != (len(l.Modules["connect.rego"]) == len(yes.Modules["connect.rego"])) {
				t.Errorf("an answer of the generation before: %s", d.Explain())
			}
		}
	}
	close(stop)
	group.Wait()
}

func TestRecallAllocatesNothing(t *testing.T) {
	e := engine(t, Config{}, reference()...)
	in := connect()
	e.Decide(t.Context(), in)
	if n := testing.AllocsPerRun(100, func() {
		if e.Recall(in) == nil {
			t.Fatal("not known")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Rules see that the authority is out of reach, at once and through the cache, and the record replays.
func TestIsolatedIsSeen(t *testing.T) {
	isolated := false
	l := level(Global, Connect, "allow contains \"yes\" if true\ndeny contains \"cut-off\" if input.policy.levels.global.isolated")
	e := engine(t, Config{Isolated: func() bool { return isolated }}, l)
	for i := range 4 {
		isolated = i%2 == 1
		for range 2 {
			d := e.Decide(t.Context(), connect())
			if d.Allow == isolated || e.Recall(connect()) == nil || e.Recall(connect()).Allow != d.Allow {
				t.Fatalf("isolated %t: %s", isolated, d.Explain())
			}
			in, err := ParseInput(d.Input)
			if err != nil {
				t.Fatal(err)
			}
			if again := engine(t, Config{}, l).Decide(t.Context(), in); again.Allow != d.Allow {
				t.Errorf("isolated %t: the record says %s", isolated, again.Explain())
			}
		}
	}
}
