package issuer_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

func TestManyEntries(t *testing.T) {
	const n = 1203
	r := newRegion(t, func(c *issuer.Config) {
		for i := range n {
			c.Entries = append(c.Entries, issuer.Entry{SPIFFEID: id(fmt.Sprintf("/workload/w%d", i)), ParentID: n1, Selectors: []string{"unix:uid:1"}})
		}
	})
	c, _ := r.attest()
	all, err := c.Entries(t.Context(), nil)
	if err != nil || len(all) != n+2 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	again, err := c.Entries(t.Context(), all[:700])
	if err != nil || len(again) != n+2 {
		t.Fatalf("%d entries, %v", len(again), err)
	}
	seen := map[string]bool{}
	for _, e := range again {
		seen[e.ID] = true
	}
	if len(seen) != n+2 {
		t.Errorf("%d different entries", len(seen))
	}
	var reqs []spire.Request
	key := newKey(t)
	for _, e := range all {
		if e.SPIFFEID != n1 {
			reqs = append(reqs, spire.Request{EntryID: e.ID, ID: e.SPIFFEID, Key: key})
		}
	}
	results, err := c.NewX509SVIDs(t.Context(), reqs)
	if err != nil || len(results) != len(reqs) {
		t.Fatal(len(results), err)
	}
	for _, res := range results {
		if res.Err != nil {
			t.Fatal(res.Err)
		}
	}
}

func TestSetEntries(t *testing.T) {
	r := newRegion(t, nil)
	agent := r.machine.id()
	for name, entries := range map[string][]issuer.Entry{
		"foreign ID":            {{SPIFFEID: spiffeid.RequireFromString("spiffe://west.dev.example/workload/x"), ParentID: n1, Selectors: []string{"unix:uid:1"}}},
		"foreign parent":        {{SPIFFEID: shop, ParentID: spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), Selectors: []string{"unix:uid:1"}}},
		"reserved ID":           {{SPIFFEID: id("/spire/server"), ParentID: n1, Selectors: []string{"unix:uid:1"}}},
		"own parent":            {{SPIFFEID: shop, ParentID: shop, Selectors: []string{"unix:uid:1"}}},
		"no selectors":          {{SPIFFEID: shop, ParentID: n1}},
		"bad selector":          {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"uid"}}},
		"class of a workload":   {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, Class: "node"}},
		"unknown class":         {{SPIFFEID: n1, ParentID: agent, Class: "king"}},
		"node below a node":     {{SPIFFEID: n1, ParentID: id("/node/n2")}},
		"selectors of a node":   {{SPIFFEID: n1, ParentID: agent, Selectors: []string{"unix:uid:1"}}},
		"two machines, one ID":  {{SPIFFEID: n1, ParentID: agent}, {SPIFFEID: n1, ParentID: id("/spire/agent/fake/m2")}},
		"one machine, two IDs":  {{SPIFFEID: n1, ParentID: agent}, {SPIFFEID: id("/node/n2"), ParentID: agent}},
		"twice":                 {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}}, {SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}}},
		"2049 bytes":            {{SPIFFEID: id("/workload/" + strings.Repeat("a", 2049-len(east.IDString())-len("/workload/"))), ParentID: n1, Selectors: []string{"unix:uid:1"}}},
		"DNS name with a space": {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{"shop", "a b"}}},
		"DNS name of any host":  {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{"*"}}},
		"DNS name with a port":  {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{"shop.internal:443"}}},
		"DNS label too long":    {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{strings.Repeat("a", 64)}}},
		"DNS name too long":     {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{strings.Repeat("a.", 127)}}},
		"DNS name without end":  {{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{"shop."}}},
		"trust domain as an ID": {{SPIFFEID: east.ID(), ParentID: n1, Selectors: []string{"unix:uid:1"}}},
	} {
		if err := r.server.SetEntries(entries); !errors.Is(err, issuer.ErrEntry) {
			t.Errorf("%s: %v, want ErrEntry", name, err)
		}
	}
	c, _ := r.attest()
	if got, err := c.Entries(t.Context(), nil); err != nil || len(got) != 2 {
		t.Errorf("refused entries changed something: %v, %v", got, err)
	}
	// A cycle is no danger.
	a, b := id("/workload/a"), id("/workload/b")
	err := r.server.SetEntries([]issuer.Entry{
		{SPIFFEID: n1, ParentID: agent}, {SPIFFEID: a, ParentID: n1, Selectors: []string{"unix:uid:1"}, DNSNames: []string{"a", "_db.A-1.internal", "*.a.internal"}},
		{SPIFFEID: b, ParentID: a, Selectors: []string{"unix:uid:1"}}, {SPIFFEID: a, ParentID: b, Selectors: []string{"unix:uid:1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Entries(t.Context(), nil); err != nil || len(got) != 4 {
		t.Errorf("%v, %v", got, err)
	}
}
