package reach

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

var drawings = flag.String("drawings", "", "write the drawings of a small and a large matrix into this folder, to be looked at")

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func shipped(t *testing.T, region string) *policy.Engine {
	t.Helper()
	e := policy.New(policy.Config{Require: []string{policy.Regional}})
	if err := e.Activate(builtin.Dev(region)...); err != nil {
		t.Fatal(err)
	}
	return e
}

// only asks the engine for nodes of its region.
func only(region string, e *policy.Engine) Policies {
	return func(self *policy.Peer) Decider {
		if self.Region != region {
			return nil
		}
		return e
	}
}

const (
	shop     = "spiffe://east.dev.example/workload/shop"
	farShop  = "spiffe://west.dev.example/workload/shop"
	intruder = "spiffe://west.dev.example/workload/intruder"
	n1       = "spiffe://east.dev.example/node/east-n1"
	n2       = "spiffe://east.dev.example/node/east-n2"
)

func node(id, standing string) policy.Peer {
	n := spiffeid.RequireFromString(id)
	return policy.Peer{
		SPIFFEID: id, TrustDomain: n.TrustDomain().Name(), Path: strings.Split(n.Path()[1:], "/"), Node: n.Path()[len("/node/"):],
		Region: "east", Standing: standing, Attestation: &policy.Attestation{Kind: "tpm", OK: true},
	}
}

func TestMatrixOfTheShippedPolicy(t *testing.T) {
	r := Roster{
		ViewOf: n1, Nodes: []policy.Peer{node(n1, "ok"), node(n2, "quarantined")},
		Callers: []Caller{
			{SPIFFEID: intruder, Region: "west"}, {SPIFFEID: farShop, Region: "west"},
			{SPIFFEID: shop, Region: "east", Nodes: []string{n1, n2}},
		},
		Services: []Service{
			{Name: "web", Region: "east", Owners: []Owner{{Node: n1, Workload: "spiffe://east.dev.example/workload/web"}}},
			{Name: "db", Region: "east"},
		},
	}
	m, err := Compute(t.Context(), r, only("east", shipped(t, "east")), noon)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(m.Services) != "[db.east web.east]" || len(m.Policies) != 1 {
		t.Errorf("columns %v, policies %v", m.Services, m.Policies)
	}
	var got []string
	for _, row := range m.Rows {
		for _, c := range row.Cells {
			b, _ := c.Decisive()
			got = append(got, fmt.Sprintf("%s %s %s %d/%d %s@%s", row.Caller[len("spiffe://"):], c.Service, c.Verdict, c.Allowed, c.Pairs, b.Rule, b.End))
		}
	}
	want := []string{
		"east.dev.example/workload/shop db.east no 0/2 caller-not-granted@dial",
		"east.dev.example/workload/shop web.east some 1/2 source-standing@dial", // from n2
		"west.dev.example/workload/intruder db.east no 0/1 caller-not-granted@accept",
		"west.dev.example/workload/intruder web.east no 0/1 caller-not-granted@accept",
		"west.dev.example/workload/shop db.east no 0/1 caller-not-granted@accept",
		"west.dev.example/workload/shop web.east half 0/1 caller-granted@accept", // west has its own policy
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// With the caller's region known too, the cell is whole.
	both := map[string]*policy.Engine{"east": shipped(t, "east"), "west": shipped(t, "west")}
	m, err = Compute(t.Context(), r, func(self *policy.Peer) Decider { return both[self.Region] }, noon)
	if err != nil || m.Rows[2].Cells[1].Verdict != Yes || m.Rows[2].Cells[1].By[0].Where() != "regional/connect.rego:14" {
		t.Errorf("with both regions: %+v, %v", m.Rows[2].Cells[1], err)
	}
}

// ends answers by the end that is asked.
type ends map[string]bool

func (e ends) Decide(_ context.Context, in policy.Input) policy.Decision {
	return policy.Decision{Allow: e[in.Action.Name], Rule: "r", Level: policy.Global}
}

func TestVerdicts(t *testing.T) {
	r := Roster{Callers: []Caller{{SPIFFEID: shop, Region: "east"}}, Services: []Service{{Name: "web", Region: "west"}}}
	for _, c := range []struct {
		dial, accept any // a bool, or nil: not known
		want         Verdict
	}{
		{true, true, Yes}, {true, false, No}, {false, true, No}, {false, nil, No}, {nil, false, No},
		{true, nil, Half}, {nil, true, Half}, {nil, nil, Half},
	} {
		m, err := Compute(t.Context(), r, func(self *policy.Peer) Decider {
			said, end := c.dial, policy.Dial
			if self.Region == "west" {
				said, end = c.accept, policy.Accept
			}
			if allow, known := said.(bool); known {
				return ends{end: allow}
			}
			return nil
		}, noon)
		if err != nil || m.Rows[0].Cells[0].Verdict != c.want {
			t.Errorf("dial %v, accept %v: %v, %v, want %s", c.dial, c.accept, m.Rows, err, c.want)
		}
	}
}

func TestBounds(t *testing.T) {
	big := Roster{Services: []Service{{Name: "web", Region: "east"}}}
	for i := range MaxQuestions/2 + 1 {
		big.Callers = append(big.Callers, Caller{SPIFFEID: fmt.Sprintf("spiffe://east.dev.example/workload/w%d", i), Region: "east"})
	}
	none := func(*policy.Peer) Decider { return nil }
	if _, err := Compute(t.Context(), big, none, noon); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
	big.Callers = big.Callers[1:]
	if _, err := Compute(t.Context(), big, none, noon); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compute(ended, big, none, noon); !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}
}

func TestNarrow(t *testing.T) {
	r := Roster{
		Nodes:    []policy.Peer{node(n1, "ok")},
		Callers:  []Caller{{SPIFFEID: shop, Region: "east", Nodes: []string{n1}}, {SPIFFEID: farShop, Region: "west"}},
		Services: []Service{{Name: "web", Region: "east"}, {Name: "web", Region: "west"}, {Name: "db", Region: "east"}},
	}
	for service, n := range map[string]int{"": 3, "web": 2, "web.west": 1, "web.east.mesh": 1} {
		got, err := r.Narrow(service, "", r.Region)
		if err != nil || len(got.Services) != n || len(r.Services) != 3 {
			t.Errorf("%q: %v, %v", service, got.Services, err)
		}
	}
	got, err := r.Narrow("", shop, r.Region)
	if err != nil || len(got.Callers) != 1 || len(got.Callers[0].Nodes) != 1 {
		t.Errorf("%+v, %v", got.Callers, err)
	}
	got, err = r.Narrow("", intruder, r.Region)
	if err != nil || len(got.Callers) != 1 || got.Callers[0].Region != "west" {
		t.Errorf("who is not in it: %+v, %v", got.Callers, err)
	}
	if _, err := r.Narrow("", "no id", r.Region); !errors.Is(err, ErrRoster) {
		t.Error(err)
	}
}

// A service that is not there is no "no": it is told, with the one that was meant.
func TestNoSuchService(t *testing.T) {
	r := Roster{Services: []Service{{Name: "web", Region: "east"}, {Name: "web", Region: "west"}, {Name: "orders", Region: "east"}}}
	for service, want := range map[string]string{
		"ordres": "did you mean orders?", "web.esat": "did you mean web.east?", "web.north.mesh": "there are orders.east",
		"payments": "there are orders.east, web.east, web.west",
	} {
		if _, err := r.Narrow(service, "", r.Region); !errors.Is(err, ErrNoService) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", service, err, want)
		}
	}
	if _, err := (Roster{}).Narrow("web", "", r.Region); err == nil || !strings.Contains(err.Error(), "no services") {
		t.Error(err)
	}
	level := policy.Level{Data: map[string]any{"services": map[string]any{"web": nil, "orders": nil}}, Modules: map[string]string{
		"connect.rego": "allow contains \"a\" if input.service.name == \"till\"\nallow contains \"b\" if input.service.name  ==\"web\"\n"}}
	if got := NamedServices(level); !slices.Equal(got, []string{"orders", "till", "web"}) {
		t.Errorf("%v", got)
	}
}

func TestRosterNamesEveryMistake(t *testing.T) {
	_, err := ParseRoster([]byte(`{"nodes":[{"spiffe_id":"x"}],"callers":[{"spiffe_id":"y","region":"east","nodes":["z"]}],"services":[{"name":"","region":"east","owners":[{"node":"q","workload":"p"}]}]}`))
	for _, want := range []string{"nodes[0].spiffe_id", "callers[0].spiffe_id", "callers[0].nodes[0]", "services[0]", "owners[0].node", "owners[0].workload"} {
		if err == nil || !errors.Is(err, ErrRoster) || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
	for _, bad := range []string{"", "{}{}", `{"caller":[]}`, "[]"} {
		if _, err := ParseRoster([]byte(bad)); !errors.Is(err, ErrRoster) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseRoster(make([]byte, MaxRoster+1)); !errors.Is(err, ErrRoster) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzRoster(f *testing.F) {
	f.Add([]byte(`{"callers":[{"spiffe_id":"spiffe://a.example/w","region":"east"}],"services":[{"name":"web","region":"east"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRoster(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRoster(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}

// fleet is a made-up matrix of some size with every verdict in it.
func fleet(callers, services int) Matrix {
	r := Roster{ViewOf: n1}
	for i := range callers {
		c := Caller{SPIFFEID: fmt.Sprintf("spiffe://%s.example.org/workload/%s-%d", []string{"east", "west"}[i%2], []string{"shop", "till", "stock", "camera"}[i/2%4], i), Region: []string{"east", "west"}[i%2]}
		r.Callers = append(r.Callers, c)
	}
	names := []string{"web", "orders", "billing", "stock", "pricing", "telemetry", "auth", "mail", "search", "ledger", "routes", "maps"}
	for i := range services {
		s := Service{Name: names[i%len(names)], Region: []string{"east", "west"}[i/len(names)%2]}
		for _, id := range []string{n1, n2} {
			s.Owners = append(s.Owners, Owner{Node: id})
		}
		r.Services = append(r.Services, s)
	}
	r.Nodes = []policy.Peer{node(n1, "ok"), node(n2, "ok")}
	m, err := Compute(context.Background(), r, func(self *policy.Peer) Decider {
		if self.Region == "west" && self.Node == "" {
			return nil
		}
		return drawn{}
	}, noon)
	if err != nil {
		panic(err)
	}
	return m
}

// drawn decides by the names, so that drawings have something to show.
type drawn struct{}

func (drawn) Decide(_ context.Context, in policy.Input) policy.Decision {
	d := policy.Decision{Level: policy.Regional, Rule: "caller-not-granted", Title: "The service does not list this caller", Owner: "payments", File: "regional/connect.rego", Line: 18, Revision: "global@12+regional@41#c71a3c8f"}
	sum := len(in.Source.SPIFFEID)*7 + int(in.Source.SPIFFEID[len(in.Source.SPIFFEID)-1])*3 + len(in.Service.Name)*5
	switch {
	case in.Action.Name == policy.Accept && in.Self.Node == "east-n2" && sum%11 == 0:
		d.Rule, d.Title, d.Level = "destination-standing", "The destination's standing is not good", policy.Global
	case sum%3 == 0 || sum%11 == 0:
		d.Allow, d.Rule, d.Title, d.Line = true, "caller-granted", "The service lists this caller", 14
	case sum%5 == 0:
		d.Rule, d.Title, d.Level, d.File = "source-unattested", "The caller's node is not attested, and its trust domain must be", policy.Global, "global/connect.rego"
	}
	return d
}

// A drawing says in words whatever it says in colour, needs nothing from elsewhere, and runs nothing
// that somebody put into a title.
func TestDrawings(t *testing.T) {
	callers := 40
	if *drawings != "" {
		callers = 200
	}
	for name, m := range map[string]Matrix{"small": fleet(10, 4), "large": fleet(callers, 24), "empty": {}} {
		for i := range m.Rows {
			if i == 0 {
				m.Rows[i].Cells[0].By[0].Title = `<script>alert("x")</script>&`
			}
		}
		var page, drawing bytes.Buffer
		if err := errors.Join(HTML(&page, m), SVG(&drawing, m)); err != nil {
			t.Fatal(err)
		}
		for kind, b := range map[string]string{"html": page.String(), "svg": drawing.String()} {
			if strings.Contains(b, "<script>alert") || strings.Contains(b, "http://") && kind == "html" || strings.Contains(b, "url(") || strings.Contains(b, "src=") {
				t.Errorf("%s.%s runs or loads what it must not", name, kind)
			}
			for _, r := range m.Rows {
				for _, c := range r.Cells {
					if want := fmt.Sprintf("%s to %s: %s, %d of %d pairs", r.Caller, c.Service, c.Verdict, c.Allowed, c.Pairs); !strings.Contains(b, want) {
						t.Fatalf("%s.%s does not say %q", name, kind, want)
					}
				}
			}
			if *drawings != "" {
				if err := os.WriteFile(filepath.Join(*drawings, name+"."+kind), []byte(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		for d := xml.NewDecoder(&drawing); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s.svg is no XML: %v", name, err)
			}
		}
	}
}

// The sheet has each verdict's glyph in its cell.
func TestGlyphs(t *testing.T) {
	seen := map[Verdict]bool{}
	for _, r := range newSheet(fleet(60, 12)).Rows {
		for _, c := range r.Cells {
			seen[c.Verdict] = true
			if c.Glyph == "" || c.Glyph != glyphs[c.Verdict] || c.Text == "" {
				t.Fatalf("%+v", c)
			}
		}
	}
	if len(seen) != len(glyphs) {
		t.Errorf("the made-up fleet shows %v only", seen)
	}
}
