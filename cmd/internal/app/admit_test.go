package app

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/admission"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/schema"
)

var (
	gateSelf = spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n1")
	gatePeer = spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n2")
)

// shippedGate is a gate under the dev policy, changed by edit.
func shippedGate(t *testing.T, edit func(global *policy.Level)) (g *gate, engine *policy.Engine, recorded *[]policy.Decision) {
	t.Helper()
	engine = policy.New(policy.Config{})
	levels := builtin.Dev("east")
	if edit != nil {
		edit(&levels[0])
	}
	if err := engine.Activate(levels...); err != nil {
		t.Fatal(err)
	}
	recorded = new([]policy.Decision)
	g = newGate(gateSelf, engine, func(id spiffeid.ID) *policy.Peer {
		return &policy.Peer{SPIFFEID: id.String(), Path: segments(id), Region: "east", Standing: "ok"}
	}, nil, func(d policy.Decision) { *recorded = append(*recorded, d) }, nil)
	return g, engine, recorded
}

// takes asks a gate about a change that gatePeer signed at a time.
func (g *gate) takes(op feed.Op, at time.Time) error {
	return g.judge(g.peers, gatePeer, op, at, false)
}

func gateOp(kind, name, v string) feed.Op {
	return feed.Op{Key: feed.KeyOf(gatePeer, kind, name), Action: feed.Put, Value: []byte(v), Scope: feed.ScopeRegion}
}

// What peers write is held against what the shipped policy grants, and the word for the
// trail says by what.
func TestGate(t *testing.T) {
	g, _, recorded := shippedGate(t, func(l *policy.Level) {
		l.Schemas = map[string]string{"schemas/a.json": `{"kind": "x-a", "version": 1, "schema": {"type": "integer"}}`}
	})
	wide := gateOp("x-b", "n", "1")
	wide.Scope = feed.ScopeGlobal
	gone := gateOp("x-a", "n", "")
	gone.Action = feed.Del
	for _, tt := range []struct {
		name string
		op   feed.Op
		is   error
		why  string
	}{
		{"own state", gateOp("service", "web", "1"), nil, ""},
		{"an operator's kind", gateOp("x-b", "n", "1"), nil, ""},
		{"fits its schema", gateOp("x-a", "n", "1"), nil, ""},
		{"breaks its schema", gateOp("x-a", "n", "one"), schema.ErrValue, "schema"},
		{"a del has no value to judge", gone, nil, ""},
		{"a wider scope", wide, admission.ErrGrant, "grant"},
		{"too large", gateOp("x-b", "n", strings.Repeat("x", 15361)), admission.ErrGrant, "grant"},
		{"a kind of nobody", gateOp("rumour", "n", "1"), admission.ErrGrant, "grant"},
	} {
		err := g.takes(tt.op, time.Now())
		if !errors.Is(err, tt.is) || tt.is == nil && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if named := (interface{ Why() string })(nil); tt.why != "" && (!errors.As(err, &named) || named.Why() != tt.why) {
			t.Errorf("%s: %v has not the word %s", tt.name, err, tt.why)
		}
	}
	if len(*recorded) != 1 || (*recorded)[0].Rule != policy.RuleGrant || (*recorded)[0].Allow {
		t.Errorf("recorded %+v", *recorded)
	}
}

// A missing, expired or failing policy, and one that denies the origin, let nothing in.
func TestGateFailsClosed(t *testing.T) {
	for name, edit := range map[string]func(*policy.Level){
		"expired": func(l *policy.Level) { l.NotAfter = time.Now().Add(-time.Hour) },
		"failing": func(l *policy.Level) { l.Data["state"].(map[string]any)["programs"].(map[string]any)["rate"] = "many" },
		"denies":  func(l *policy.Level) { l.Data["state"].(map[string]any)["good_standing"] = []any{} },
		"nothing": func(l *policy.Level) { delete(l.Data, "state") },
	} {
		g, _, recorded := shippedGate(t, edit)
		for range 3 {
			if err := g.takes(gateOp("x-b", "n", "1"), time.Now()); !errors.Is(err, admission.ErrDenied) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(*recorded) != 1 {
			t.Errorf("%s: %d denials recorded", name, len(*recorded))
		}
	}
	g := newGate(gateSelf, policy.New(policy.Config{}), func(id spiffeid.ID) *policy.Peer { return &policy.Peer{SPIFFEID: id.String()} }, nil, func(policy.Decision) {}, nil)
	if err := g.takes(gateOp("x-b", "n", "1"), time.Now()); !errors.Is(err, admission.ErrDenied) {
		t.Errorf("no policy: %v", err)
	}
}

// A node's day of writes is taken in at once; twice the rate is not. What a snapshot
// restates costs nothing, and a new policy is asked at once.
func TestGateRate(t *testing.T) {
	g, engine, _ := shippedGate(t, func(l *policy.Level) { l.Data["state"].(map[string]any)["programs"].(map[string]any)["rate"] = 1 })
	at := time.Now().Add(-24 * time.Hour)
	write := func(step time.Duration) error {
		at = at.Add(step)
		return g.takes(gateOp("x-b", "n", "1"), at)
	}
	for range 10_000 {
		if err := write(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for range 1000 {
		if err := write(time.Second / 2); errors.Is(err, admission.ErrRate) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused < 480 || refused > 500 {
		t.Errorf("%d of 1000 refused at twice the rate", refused)
	}
	if err := g.judge(g.peers, gatePeer, gateOp("x-b", "n", "1"), at, true); err != nil {
		t.Errorf("restated: %v", err)
	}
	if err := engine.Activate(builtin.Dev("east")...); err != nil {
		t.Fatal(err)
	}
	if err := write(time.Second); err != nil {
		t.Errorf("under a policy with a higher rate: %v", err)
	}
}

func sharedPart(owner string, body string, edit func(*replica.Entry)) replica.Entry {
	id := spiffeid.RequireFromString("spiffe://east.dev.example/node/" + owner)
	e := replica.Entry{Key: feed.KeyOf(id, "x-visits", "total"), Owner: id, Value: []byte(body), Epoch: 1, Seq: 1, HLC: feed.NewHLC(time.Now()), Lease: feed.LeaseLive}
	if edit != nil {
		edit(&e)
	}
	return e
}

// Whose part counts is for the reader to say: by default all that are parts of the type, an
// expired or shut out owner's too.
func TestWhichPartsCount(t *testing.T) {
	parts := []replica.Entry{
		sharedPart("n1", `{"counter":{"inc":1}}`, nil),
		sharedPart("n2", `{"counter":{"inc":10}}`, func(e *replica.Entry) { e.Suspect = true }),
		sharedPart("n3", `{"counter":{"inc":100}}`, func(e *replica.Entry) { e.Lease = feed.LeaseExpired }),
		sharedPart("n4", `{"counter":{"inc":1000}}`, func(e *replica.Entry) { e.Rewind = true }),
		sharedPart("n5", `{"set":{"add":{"x":1}}}`, nil),
		sharedPart("n6", `nonsense`, nil),
	}
	for _, tt := range []struct {
		leaveOut []string
		want     int64
	}{
		{nil, 1111}, {[]string{"suspect"}, 1101}, {[]string{"expired"}, 1011}, {[]string{"rewind"}, 111}, {[]string{"suspect", "expired", "rewind"}, 1},
	} {
		state, out := parted(parts, reading{of: value.Counter, leaveOut: tt.leaveOut}, func(replica.Entry) int { return 0 }, func(replica.Entry) bool { return false })
		if got := state.Count(); got != tt.want || len(out) != 2+len(tt.leaveOut) || out["/node/n5"] == "" || out["/node/n6"] == "" {
			t.Errorf("without %v: %d, left out %v", tt.leaveOut, got, out)
		}
	}
	state, out := parted(parts, reading{of: value.Counter}, func(replica.Entry) int { return 0 }, func(e replica.Entry) bool { return e.Suspect })
	if state.Count() != 1101 || !strings.Contains(out["/node/n2"], "policy keeps it closed") {
		t.Errorf("closed by policy: %d, left out %v", state.Count(), out)
	}
	if _, err := (value.State{}).TypeOf(); err != nil {
		t.Error(err)
	}
}

// What the authority keeps out of an origin's state is refused, whoever writes it, and the rest is not;
// it outlives a restart.
func TestSegmentsAreKeptOut(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	parts := authority.Segments{Origin: gatePeer, Prefixes: []string{"x-b/mood*"}, At: time.Now()}
	var before, after keptOut
	if err := before.load(st, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if before.take(parts); !before.covers(gatePeer, "x-b", "mood") {
		t.Error("not kept out")
	}
	if err := st.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Put(segmentBucket, []byte("damaged"), []byte{1}), tx.Put(segmentBucket, []byte(gatePeer.String()), segmentsBody(t, parts)))
	}); err != nil {
		t.Fatal(err)
	}
	if err := after.load(st, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	g, _, _ := shippedGate(t, nil)
	g.segmented = after.covers
	for name, want := range map[string]string{"mood": "segment", "moods": "segment", "moo": "", "other": ""} {
		op := gateOp("x-b", name, "1")
		why := ""
		if r := (refusal{}); errors.As(g.takes(op, time.Now()), &r) {
			why = r.why
		}
		if why != want {
			t.Errorf("%s: refused for %q, want %q", name, why, want)
		}
	}
}

// segmentsBody is what an authority would have signed.
func segmentsBody(t *testing.T, parts authority.Segments) []byte {
	t.Helper()
	key, err := authority.OpenKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := authority.New(key, parts.Origin, authority.Regional, openStore(t, filepath.Join(t.TempDir(), "authority.db")), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Segment(parts.At, parts.Origin, parts.Prefixes[0], false, "x")
	if err != nil {
		t.Fatal(err)
	}
	return s.Body
}

// BenchmarkAdmit is one change of a known origin: what is spent for each op of a record.
func BenchmarkAdmit(b *testing.B) {
	engine := policy.New(policy.Config{})
	if err := engine.Activate(builtin.Dev("east")...); err != nil {
		b.Fatal(err)
	}
	peer := func(id spiffeid.ID) *policy.Peer {
		return &policy.Peer{SPIFFEID: id.String(), Path: segments(id), Region: "east", Standing: "ok"}
	}
	op := gateOp("x-b", "n", "1")
	b.Run("granted", func(b *testing.B) {
		g := newGate(gateSelf, engine, peer, nil, func(policy.Decision) {}, nil)
		at := time.Now()
		for b.Loop() {
			at = at.Add(time.Second)
			if err := g.takes(op, at); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("asked", func(b *testing.B) { // as once for every op
		g := newGate(gateSelf, engine, peer, nil, func(policy.Decision) {}, nil)
		for b.Loop() {
			if d := g.ask(peer(gatePeer)); !d.Allow {
				b.Fatal(fmt.Sprint(d))
			}
		}
	})
}

// What a level refuses comes in all the same where a control call of its origin may be, if it is
// policy, what authorities signed, or evidence; nothing else does.
func TestGateLetsRepairsIn(t *testing.T) {
	for _, may := range []bool{true, false} {
		g, _, _ := shippedGate(t, func(l *policy.Level) { l.Data["state"].(map[string]any)["good_standing"] = []any{} })
		asked := map[string]bool{}
		g.control = func(source spiffeid.ID, call string) bool {
			asked[call] = source == gatePeer && slices.Contains(policy.ControlCalls, call)
			return may
		}
		for kind, repairs := range map[string]bool{feed.KindPolicy: true, feed.KindAuthority: true, feed.KindEvidence: true, feed.KindAccusation: true, feed.KindAttestation: true, feed.KindService: false, "x-b": false} {
			if err := g.takes(gateOp(kind, "n", "1"), time.Now()); (err == nil) != (repairs && may) {
				t.Errorf("%s, control calls may be: %v: %v", kind, may, err)
			}
		}
		if len(asked) != 3 || !asked["policy_sync"] || !asked["trust_sync"] || !asked["standing_sync"] {
			t.Errorf("asked for %v", asked)
		}
	}
}

// A held node's evidence comes in, whatever policy makes of its standing: else nothing could end the
// hold. Nothing else of it does, nor the evidence of one that is shut out.
func TestGateLetsAHeldNodeClearItself(t *testing.T) {
	g, _, _ := shippedGate(t, nil)
	standing := ""
	g.subject = func(id spiffeid.ID) *policy.Peer {
		return &policy.Peer{SPIFFEID: id.String(), Path: segments(id), Region: "east", Standing: standing}
	}
	g.peers = admission.New(admission.Config{Ask: g.ask})
	g.control = func(spiffeid.ID, string) bool { return false }
	for _, standing = range []string{"held", "quarantined", "revoked"} {
		for _, kind := range []string{feed.KindAttestation, feed.KindNode, feed.KindAccusation, "x-b"} {
			want := standing == "held" && kind == feed.KindAttestation
			if err := g.takes(gateOp(kind, "n", "1"), time.Now()); (err == nil) != want {
				t.Errorf("%s of a %s node: %v", kind, standing, err)
			}
		}
	}
}
