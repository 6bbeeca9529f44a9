package admission

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

var t0 = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

func granted(grants ...policy.Grant) policy.Decision {
	return policy.Decision{Allow: true, Revision: "r1", Grants: grants}
}

var own = policy.Grant{ID: "own", Prefix: "/node/n1", Kinds: []string{"service", "x-*"}, Scope: "region", Bytes: 100, Rate: 2}

func source(id string) *policy.Peer {
	return &policy.Peer{SPIFFEID: "spiffe://t/" + id, Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm"}}
}

func op(edit func(*Op)) Op {
	o := Op{Key: "/node/n1/x-a/b", Kind: "x-a", Scope: "region", Size: 100, At: t0}
	if edit != nil {
		edit(&o)
	}
	return o
}

func TestBounds(t *testing.T) {
	wide := policy.Grant{ID: "wide", Prefix: "/x", Scope: "global", Bytes: 1000, Rate: 1}
	for _, tt := range []struct {
		name, want string
		edit       func(*Op)
	}{
		{"own key", "", nil},
		{"too large", "101 bytes", func(o *Op) { o.Size = 101 }},
		{"negative", "-1 bytes", func(o *Op) { o.Size = -1 }},
		{"a neighbour with the same beginning", "prefix", func(o *Op) { o.Key = "/node/n10/x-a/b" }},
		{"another kind", "kind node", func(o *Op) { o.Kind = "node" }},
		{"a narrower scope", "", func(o *Op) { o.Scope = "zone" }},
		{"a wider scope", "scope global", func(o *Op) { o.Scope = "global" }},
		{"an unknown scope", "scope galaxy", func(o *Op) { o.Scope = "galaxy" }},
		{"no scope", "scope", func(o *Op) { o.Scope = "" }},
		{"the second grant", "", func(o *Op) { o.Key, o.Scope, o.Size = "/x/y", "global", 1000 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := New(Config{Ask: func(*policy.Peer) policy.Decision { return granted(own, wide) }})
			err := b.Admit(t0, "r1", source("n1"), op(tt.edit))
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrGrant) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if r := (*Refusal)(nil); tt.want != "" && (!errors.As(err, &r) || r.Decision.Allow || r.Decision.Rule != policy.RuleGrant || r.Decision.Grants != nil) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// What is not an allow denies: the zero decision, an allow without grants, and whatever
// an engine says that has no policy, or one that fails.
func TestWhatIsNotAnAllowDenies(t *testing.T) {
	for name, ask := range map[string]func(*policy.Peer) policy.Decision{
		"zero":      func(*policy.Peer) policy.Decision { return policy.Decision{Revision: "r1"} },
		"no grants": func(*policy.Peer) policy.Decision { return policy.Decision{Allow: true, Revision: "r1"} },
		"no policy": func(p *policy.Peer) policy.Decision {
			return policy.New(policy.Config{}).Decide(t.Context(), policy.Input{V: policy.InputVersion, Kind: policy.StateAdmit, Time: policy.Time{Unix: 1}, Source: p})
		},
	} {
		if err := New(Config{Ask: ask}).Admit(t0, "r1", source("n1"), op(nil)); !errors.Is(err, ErrDenied) && !errors.Is(err, ErrGrant) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Policy is asked once, until the generation, a fact or the time changes.
func TestAsksOnce(t *testing.T) {
	asked, revision := 0, "r1"
	b := New(Config{Ask: func(*policy.Peer) policy.Decision {
		asked++
		d := granted(own)
		d.Revision = revision
		return d
	}})
	p, now := source("n1"), t0
	want := func(n int, what string) {
		t.Helper()
		for i := range 10 {
			if err := b.Admit(now, revision, p, op(func(o *Op) { o.At = t0.Add(time.Duration(asked*100+i) * time.Second) })); err != nil {
				t.Fatal(err)
			}
		}
		if asked != n {
			t.Errorf("%s: asked %d times, want %d", what, asked, n)
		}
	}
	want(1, "at first")
	p = source("n1")
	p.Attestation.AgeSeconds = 7
	want(1, "older by seconds")
	p.Standing = "watch"
	want(2, "another standing")
	p.Attestation.OK = true
	want(3, "attested meanwhile")
	revision = "r2"
	want(4, "another generation")
	now = now.Add(10 * time.Second)
	want(5, "an old answer")
}

// The rate is by the signed clock: a day of changes at the rate passes at once, twice the
// rate does not, and a new answer gives no new tokens.
func TestRate(t *testing.T) {
	revision := "r1"
	b := New(Config{Ask: func(*policy.Peer) policy.Decision { d := granted(own); d.Revision = revision; return d }})
	at := t0
	change := func(step time.Duration) error {
		at = at.Add(step)
		return b.Admit(t0, revision, source("n1"), op(func(o *Op) { o.At = at }))
	}
	for range 2 * 24 * 3600 {
		if err := change(time.Second / 2); err != nil {
			t.Fatal(err)
		}
	}
	passed := 0
	for range 1000 {
		if err := change(time.Second / 4); err == nil {
			passed++
		} else if !errors.Is(err, ErrRate) {
			t.Fatal(err)
		}
	}
	if passed < 500 || passed > 500+2*Burst {
		t.Errorf("%d of 1000 at twice the rate", passed)
	}
	revision = "r2"
	if err := change(0); !errors.Is(err, ErrRate) {
		t.Errorf("a new answer: %v", err)
	}
	at = at.Add(-time.Hour)
	if err := change(0); !errors.Is(err, ErrRate) {
		t.Errorf("a clock that goes back: %v", err)
	}
	if err := b.Admit(t0, "r2", source("n1"), op(func(o *Op) { o.Restated = true })); err != nil {
		t.Errorf("restated: %v", err)
	}
}

// Whatever a writer's own Book lets through, a peer's does, which sees the changes a
// moment later and in bunches.
func TestTheWritersShareIsTheStricter(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := own
		g.Rate = []float64{0.5, 2, 20, 300}[seed%4]
		ask := func(*policy.Peer) policy.Decision { return granted(g) }
		mine, peers := New(Config{Ask: ask, Share: 0.9}), New(Config{Ask: ask})
		now, first, waiting := t0, t0, 0
		for range 3000 {
			now = now.Add(time.Duration(r.Float64() / g.Rate * float64(time.Second)))
			if mine.Admit(now, "r1", source("n1"), op(func(o *Op) { o.At = now })) == nil {
				if waiting++; waiting == 1 {
					first = now
				}
			}
			if waiting == 0 || g.Rate > 2 && now.Sub(first) < 500*time.Millisecond {
				continue
			}
			now = now.Add(time.Duration(r.IntN(500)) * time.Millisecond)
			for range waiting {
				if err := peers.Admit(t0, "r1", source("n1"), op(func(o *Op) { o.At = now })); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			waiting = 0
		}
	}
}

func TestBounded(t *testing.T) {
	b := New(Config{Ask: func(*policy.Peer) policy.Decision { return granted(own) }, Origins: 10})
	for i := range 1000 {
		_ = b.Admit(t0.Add(time.Duration(i)*time.Second), "r1", source(fmt.Sprint("n", i)), op(nil))
		if len(b.accounts) > 10 {
			t.Fatalf("%d accounts", len(b.accounts))
		}
	}
}

// The same refusal is to be recorded once an answer.
func TestRepeated(t *testing.T) {
	b := New(Config{Ask: func(*policy.Peer) policy.Decision { return granted(own) }})
	for i := range 3 {
		var r *Refusal
		if err := b.Admit(t0, "r1", source("n1"), op(func(o *Op) { o.Size = 1000 })); !errors.As(err, &r) || r.Repeated != (i > 0) {
			t.Errorf("%d: %+v", i, r)
		}
	}
}
