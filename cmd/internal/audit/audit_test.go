package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

const (
	shop     = "spiffe://east.dev.example/workload/shop"
	intruder = "spiffe://east.dev.example/workload/intruder"
	n2       = "spiffe://east.dev.example/node/n2"
	revision = "global@1#00"
)

// node is a node's state folder with a trail that is being written.
type node struct {
	testing.TB
	dir string
	st  *store.Store
	tr  *trail.Trail
	log *decision.Log
}

// answers denies everybody but the shop.
type answers struct{}

func (answers) Decide(_ context.Context, in policy.Input) policy.Decision {
	input, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	d := policy.Decision{Kind: in.Kind, Input: input, Source: in.Source.SPIFFEID, Target: "web.east", Revision: revision, Rule: "no-grant", Reason: "no level allows it"}
	if in.Source.SPIFFEID == shop {
		d.Allow, d.Rule, d.Level, d.Reason = true, "shop", "regional", "the shop may"
	}
	if in.Resource != nil {
		d.Target = n2
	}
	return d
}

func (answers) Recall(policy.Input) *policy.Decision { return nil }

func newNode(t testing.TB, id string) *node {
	t.Helper()
	state := t.TempDir()
	n := &node{TB: t, dir: filepath.Join(state, "trail")}
	var err error
	n.st, err = store.Open(filepath.Join(state, "state.db"))
	n.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	n.must(err)
	n.tr, err = trail.Open(trail.Config{Dir: n.dir, Node: spiffeid.RequireFromString(id), Epoch: 1, Key: key, Store: n.st, Every: time.Hour})
	n.must(err)
	n.log = decision.New(decision.Config{Store: n.st, Engine: answers{}, Dir: filepath.Join(state, decision.DirName)})
	t.Cleanup(func() { n.must(errors.Join(n.tr.Close(), n.st.Close())) })
	n.put(trail.PolicyActivate, map[string]any{"revision": revision})
	return n
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) put(kind trail.Kind, body map[string]any) {
	n.Helper()
	n.must(n.st.Update(func(tx *store.Tx) error { return trail.Append(tx, kind, body) }))
	n.flush()
}

func (n *node) flush() { n.Helper(); n.must(n.tr.Flush(n.Context())) }

// ask decides and seals what was decided.
func (n *node) ask(in policy.Input) policy.Decision {
	n.Helper()
	in.V, in.Time = 1, policy.Time{Unix: time.Now().Unix(), Trusted: true}
	d := n.log.Decide(n.Context(), in)
	n.must(n.log.Flush())
	n.must(n.log.Rotate())
	n.flush()
	return d
}

func connect(source string) policy.Input {
	return policy.Input{Kind: policy.Connect, Source: &policy.Peer{SPIFFEID: source}, Service: &policy.Service{Name: "web", Region: "east"}}
}

// proven are the leaves of an answer that is one line, after they were proven.
func (n *node) proven(got []audit.Answer, err error) string {
	n.Helper()
	n.must(err)
	n.must(audit.Prove(n.Context(), []string{n.dir}, got))
	var out []string
	for _, a := range got {
		var kinds []string
		for _, p := range a.Leaves {
			kinds = append(kinds, p.Kind)
		}
		out = append(out, strings.Join(kinds, "+")+": "+a.Text)
	}
	return strings.Join(out, "\n")
}

// Every question is answered from files alone, with leaves that prove each line.
func TestQuestions(t *testing.T) {
	t.Parallel()
	n := newNode(t, "spiffe://east.dev.example/node/n1")
	allowed, denied := n.ask(connect(shop)), n.ask(connect(intruder))
	n.ask(policy.Input{Kind: policy.Replicate, Source: &policy.Peer{SPIFFEID: shop}, Resource: &policy.Resource{Classes: []string{"customer"}}})
	n.put(trail.StateOut, map[string]any{"epoch": 1, "seq": 7, "ops": 1, "record": bytes.Repeat([]byte{1}, 32)})
	n.put(trail.StateIn, map[string]any{"origin": n2, "epoch": 1, "last": 3, "records": 1, "ops": 1, "record": bytes.Repeat([]byte{2}, 32)})
	n.put(trail.IdentityTrust, map[string]any{"region": "east", "trust_domain": "east.dev.example", "version": 2, "from": "import"})
	n.put(trail.AdminAction, map[string]any{"action": "put", "uid": 1000})
	ctx, dirs := t.Context(), []string{n.dir}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)

	for name, tt := range map[string]struct {
		got  string
		want []string
	}{
		"who could":      {n.proven(audit.WhoCould(ctx, audit.Scan, dirs, "web.east", to)), []string{"segment+policy.activate: allowed connect of " + shop + " to web.east: rule shop", "denied connect of " + intruder}},
		"decided, allow": {n.proven(audit.Decided(ctx, audit.Scan, dirs, allowed.ID[:12])), []string{"segment+policy.activate: allowed connect", "rule shop of the regional policy", revision}},
		"decided, deny":  {n.proven(audit.Decided(ctx, audit.Scan, dirs, denied.ID[:12])), []string{"decision.deny+policy.activate: denied connect of " + intruder + " to web.east: rule no-grant"}},
		"claims, own":    {n.proven(audit.Claims(ctx, audit.Scan, dirs, "spiffe://east.dev.example/node/n1", from, to, 0)), []string{"state.out: signed record 7"}},
		"claims, other":  {n.proven(audit.Claims(ctx, audit.Scan, dirs, n2, from, to, 0)), []string{"state.in: applied 1 records of " + n2}},
		"held":           {n.proven(audit.Held(ctx, audit.Scan, dirs, "customer", from, to)), []string{"segment+policy.activate: allowed replicate of " + shop + " to " + n2}},
		"changed":        {n.proven(audit.Changed(ctx, audit.Scan, dirs, "east", from, to, 0)), []string{"policy.activate: ", "identity.trust: trust record 2 of east", "admin.action: put by uid 1000"}},
	} {
		for _, want := range tt.want {
			if !strings.Contains(tt.got, want) {
				t.Errorf("%s: %q is not in\n%s", name, want, tt.got)
			}
		}
	}
	for name, err := range map[string]error{
		"a class nobody sent":     second(audit.Held(ctx, audit.Scan, dirs, "secret", from, to)),
		"a region of others":      second(audit.Changed(ctx, audit.Scan, dirs, "west", from, to, 0)),
		"an ID that is too short": second(audit.Decided(ctx, audit.Scan, dirs, "0123")),
		"a service before":        second(audit.WhoCould(ctx, audit.Scan, dirs, "web.east", from)),
		"a node of like name":     second(audit.Claims(ctx, audit.Scan, dirs, "spiffe://east.dev.example/node/n", from, to, 0)),
	} {
		if !errors.Is(err, audit.ErrNoLeaf) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := []audit.Answer{{Leaves: []audit.Place{{Origin: "east.dev.example/trail/n1/1", Index: 10_000}}}}
	if err := audit.Prove(ctx, dirs, wrong); !errors.Is(err, trail.ErrTile) {
		t.Errorf("a leaf that is not there: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Two nodes that were told two stories differ; what each did alone is no difference.
func TestDiff(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "spiffe://east.dev.example/node/n1"), newNode(t, n2)
	story := func(n *node, digest byte) {
		n.put(trail.StateIn, map[string]any{"origin": "spiffe://east.dev.example/node/n3", "epoch": 1, "last": 9, "records": 1, "ops": 1, "record": bytes.Repeat([]byte{digest}, 32)})
	}
	a.put(trail.StateOut, map[string]any{"epoch": 1, "seq": 1, "ops": 1, "record": bytes.Repeat([]byte{9}, 32)})
	if got, err := audit.Diff(t.Context(), a.dir, b.dir); err != nil || len(got) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	story(a, 1)
	story(b, 2)
	a.put(trail.PeerStanding, map[string]any{"id": n2, "from": "ok", "to": "held"})
	got, err := audit.Diff(t.Context(), a.dir, b.dir)
	a.must(err)
	if len(got) != 2 || !strings.Contains(got[0].About, "n3 in epoch 1, number 9") || got[0].A == nil || got[0].B == nil || got[1].About != "standing of "+n2 || got[1].B != nil {
		t.Errorf("%+v", got)
	}
}

// A follower yields each leaf once, in order, over a pause and a filter.
func TestFollow(t *testing.T) {
	t.Parallel()
	n := newNode(t, "spiffe://east.dev.example/node/n1")
	f, err := audit.Follow(n.dir, 1)
	n.must(err)
	kinds := func() (out []string) {
		all, err := f.More(t.Context())
		n.must(err)
		for _, x := range all {
			out = append(out, x.Kind)
		}
		return out
	}
	if got := strings.Join(kinds(), " "); got != "policy.activate" {
		t.Errorf("at first: %s", got)
	}
	n.put(trail.PeerStanding, map[string]any{"id": n2, "from": "ok", "to": "held", "reason": "flooding"})
	n.put(trail.NodeStop, map[string]any{})
	if got := strings.Join(kinds(), " "); got != "peer.standing node.stop" {
		t.Errorf("then: %s", got)
	}
	if got := kinds(); len(got) != 0 {
		t.Errorf("and again: %v", got)
	}
	for filter, want := range map[*audit.Filter]int{
		{}: 5, {Kinds: []string{"peer", "genesis"}}: 2, {Kinds: []string{"pee"}}: 0, {Subject: n2}: 1, {Text: "FLOODING"}: 1,
		{Subject: n2, Kinds: []string{"node"}}: 0, {From: time.Now().Add(time.Hour)}: 0, {To: time.Now().Add(time.Hour)}: 5,
	} {
		if got, err := audit.Scan(t.Context(), []string{n.dir}, *filter); err != nil || len(got) != want {
			t.Errorf("%+v: %d of %d, %v", *filter, len(got), want, err)
		}
	}
}

// The drawing is whole XML, without a script or a link, whatever nodes wrote.
func TestTimeline(t *testing.T) {
	t.Parallel()
	n := newNode(t, "spiffe://east.dev.example/node/n1")
	n.put(trail.PeerStanding, map[string]any{"id": n2, "from": "ok", "to": "held", "reason": `<script>&"` + strings.Repeat("é", 200)})
	all, err := audit.Scan(t.Context(), []string{n.dir}, audit.Filter{})
	n.must(err)
	var b bytes.Buffer
	n.must(audit.SVG(&b, `<"&`, all))
	if s := b.String(); strings.Contains(s, "<script") || strings.Contains(s, "href") || strings.Count(s, "<circle") != len(all) {
		t.Errorf("%s", s)
	}
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	b.Reset()
	n.must(audit.Text(&b, all))
	if got := strings.Count(b.String(), "\n"); got != len(all) {
		t.Errorf("%d lines for %d leaves", got, len(all))
	}
}
