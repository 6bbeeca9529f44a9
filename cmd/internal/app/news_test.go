package app

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// A node asks when an issuer's record says something else than before, and only then.
func TestHeardNews(t *testing.T) {
	heard := heardNews{}
	one, two := spiffeid.RequireFromString("spiffe://east.example.org/node/one"), spiffeid.RequireFromString("spiffe://east.example.org/node/two")
	for _, step := range []struct {
		name           string
		from           spiffeid.ID
		roles          []string
		entries, trust string
		asks           bool
		wants          string
	}{
		{"heard for the first time: it enrolled since", one, []string{roleIssuer}, "e1", "t1", false, ""},
		{"the same", one, []string{roleIssuer}, "e1", "t1", false, ""},
		{"other entries", one, []string{roleIssuer}, "e2", "t1", true, ""},
		{"another issuer has its own", two, []string{roleIssuer, roleGateway}, "e9", "t9", false, ""},
		{"the first as before", one, []string{roleIssuer}, "e2", "t1", false, ""},
		{"other trust records", two, []string{roleIssuer}, "e9", "t10", true, "t10"},
		{"no issuer", one, []string{roleGateway}, "e3", "t3", false, ""},
	} {
		value, err := statement.Marshal(nodeRecord{Address: "127.0.0.1:1", Region: "east", Roles: step.roles, Entries: step.entries, Trust: step.trust})
		if err != nil {
			t.Fatal(err)
		}
		asked, wants := heard.hear(replica.Change{Entry: replica.Entry{Owner: step.from, Value: value}})
		if asked != step.asks || wants != step.wants {
			t.Errorf("%s: asks %v for %q, want %v for %q", step.name, asked, wants, step.asks, step.wants)
		}
	}
	if asked, _ := heard.hear(replica.Change{Entry: replica.Entry{Owner: one, Value: []byte("no record")}}); asked {
		t.Error("asks because of what is no record")
	}
}
