package governing

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Of several versions on probation the engine goes back to the one before all of them, and that is
// what the node says, also where something else happens before it learns of it.
func TestVersionInForceAfterARevert(t *testing.T) {
	for _, installs := range []bool{false, true} {
		st := openStore(t, filepath.Join(t.TempDir(), "db"))
		e := newStagedEast(t, st)
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		e.take(e.version(policy.Global, 1, true, nil))
		e.take(e.version(policy.Regional, 1, true, nil))
		for range 1000 { // remembered all but one: it is proven
			e.decide(0)
		}
		other := shopCalls()
		other.Service.Name = "trigger-too" // most of what the node is asked for has to fail
		e.engine.Decide(t.Context(), other)
		numbers := "[" + strings.Repeat("1, ", 200) + "1]"
		for n := uint64(2); n <= 3; n++ {
			e.extra = fmt.Sprintf(`package bailiwick.regional.connect

import rego.v2

# METADATA
# title: Takes very long for most services
# labels:
#   owner: someone
deny contains "slow" if {
	startswith(input.service.name, concat("", ["trig", "ger"]))
	some a in %s
	some b in %s
	a + b < %d
}
`, numbers, numbers, n-2)
			e.take(e.version(policy.Regional, n, true, nil))
			e.expect(n)
		}
		e.p.mu.Lock()
		e.p.stale = map[string]string{policy.Regional: policy.Freeze} // as restale does
		err := e.p.install(nil, decision.Stale, "", false, e.p.InForce()[0].NotAfter)
		e.p.mu.Unlock()
		reverted := e.engine.Revision()
		if err != nil || !strings.Contains(reverted, "regional@3~freeze#") {
			t.Fatal(err, reverted)
		}
		for i := range 20 {
			in := shopCalls()
			in.Time.Unix = e.p.InForce()[0].NotAfter.Unix() - 60
			in.Service.Name, in.Source.SPIFFEID = "trigger", fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", i)
			e.engine.Decide(t.Context(), in)
		}
		if !strings.Contains(e.engine.Revision(), "regional@1~freeze#") {
			t.Fatalf("%s is in force", e.engine.Revision())
		}
		if installs {
			e.take(e.version(policy.Global, 2, true, nil))
		} else {
			const why = "it hangs"
			to := e.engine.Revision()
			if err := e.p.Reverted(reverted, to, why); err != nil {
				t.Fatal(err)
			}
			c := e.changes[len(e.changes)-1]
			if c.Why != decision.Reverted || c.From != reverted || c.To != to || c.Detail != why || len(c.Records) != 1 || c.Records[0].From != 3 || c.Records[0].Version != 1 {
				t.Errorf("recorded: %+v", c)
			}
		}
		if got := e.p.Version(policy.Regional); got != 1 || !strings.Contains(e.engine.Revision(), "regional@1~freeze#") {
			t.Errorf("the node says %d, and enforces %s", got, e.engine.Revision())
		}
		if n := len(e.p.generations); n > 2 {
			t.Errorf("the records of %d generations are kept", n)
		}
	}
}
