package workbench

import (
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

const wide = `# METADATA
# title: Wide
# labels:
#   owner: shops
package bailiwick.regional.connect

import rego.v2

# METADATA
# title: Whoever asks for a service
allow contains "wide" if input.service

# METADATA
# title: Our own
allow contains "narrow" if {
	input.service.region == "east"
	input.service.name == "web"
}

# METADATA
# title: No telnet anywhere
deny contains "telnet" if input.service.port == 23
`

const admin = `package bailiwick.regional.admin

import rego.v2

# METADATA
# title: All calls
# labels:
#   owner: shops
allow contains "all-calls" if input.call.owner
`

// An allow that never counts, and one that counts here and not there, are told apart; an allow that
// keeps to its delegation is not mentioned.
func TestLaw(t *testing.T) {
	dir := write(t, "tree.json", `{"region": "east", "trust_domain": "east.example.org", "delegations": {"regional": {"services": ["web"]}}}`,
		"regional/connect.rego", wide, "regional/admin.rego", admin)
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	in, err := tree.Ask(Asking{Source: "spiffe://east.example.org/workload/shop", Target: "web"}, noon)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.Law(t.Context(), []policy.Input{in})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Excess{}
	for _, e := range got {
		found[e.ID] = e
	}
	if len(got) != 2 || !found["all-calls"].Never || found["all-calls"].Line == 0 || found["wide"].Never || found["wide"].Example.Service.Region != "elsewhere" {
		t.Errorf("%+v", got)
	}
	// With everything of the region delegated, the wide rule still reaches beyond the region.
	tree.Levels[1].Delegation = policy.Delegation{Kinds: []policy.Kind{policy.Connect, policy.Admin}, Regions: []string{"east"}}
	if got, err = tree.Law(t.Context(), []policy.Input{in}); err != nil || len(got) != 1 || got[0].ID != "wide" {
		t.Errorf("%+v, %v", got, err)
	}
	// What the engine makes of it.
	engine, err := tree.Engine()
	if err != nil {
		t.Fatal(err)
	}
	in.Service.Region = "west"
	if d := engine.Decide(t.Context(), in); d.Allow || d.Rule != policy.RuleDelegation {
		t.Error(d.Explain())
	}
}

func TestCheck(t *testing.T) {
	tree, err := Open(write(t, "tree.json", `{"region": "east"}`, "inputs/none.md", "", "regional/connect.rego", strings.Replace(wide, "if input.service\n", "if  input.service\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	found, err := tree.Check(t.Context())
	if err != nil || len(found.Levels) != 1 || len(found.Layouts) != 1 || found.Excess != nil {
		t.Fatalf("%+v, %v", found, err)
	}
	if p := found.Levels[0]; p.Rules != 3 || p.Modules != 1 || p.Kinds[0].Allows != 2 || p.Kinds[0].Denies != 1 || len(p.Functions) != 0 {
		t.Errorf("%+v", p)
	}
	tree, err = Open(write(t, "regional/a.rego", strings.Replace(wide, "service.port", "service.prot", 1), "local/b.rego", "package bailiwick.local.connect\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tree.Check(t.Context())
	if list := policy.Mistakes(err); len(list) != 2 || list[0].File != "local/b.rego" || !strings.Contains(list[1].Fix, "port") {
		t.Errorf("%v", err)
	}
}
