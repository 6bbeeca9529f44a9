package bundle

import (
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// The shipped policy, packed, signed, verified and activated, decides as the embedded one does.
func TestShippedPolicyTravels(t *testing.T) {
	files, err := builtin.Files(policy.Global)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := PackFS(files)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Sign(globalKey, record(policy.Global, ScopeMesh, 3), packed)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Verify(b, packed, globals, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.Check(v.Level()); err != nil {
		t.Fatal(err)
	}
	e := policy.New(policy.Config{})
	if err := e.Activate(v.Level()); err != nil {
		t.Fatal(err)
	}
	peer := &policy.Peer{SPIFFEID: "spiffe://east.dev.example/node/a", TrustDomain: "east.dev.example", Path: []string{"node", "a"}, Node: "a",
		Region: "east", Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true}}
	in := policy.Input{V: 1, Kind: policy.Connect, Time: policy.Time{Unix: now.Unix()}, Source: peer, Action: &policy.Action{Name: policy.Link}}
	if d := e.Decide(t.Context(), in); !d.Allow || d.Rule != "node-link" {
		t.Error(d.Explain())
	}
	in.Time.Unix = v.NotAfter.Unix() + 1
	if d := e.Decide(t.Context(), in); d.Allow || d.Rule != policy.RuleExpired {
		t.Error(d.Explain())
	}
}
