package governing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// Every change of the policy in force is an event of the decision log and a leaf, with why, before it
// takes effect; and what cannot be recorded does not take effect.
func TestChangesOfPolicyAreRecorded(t *testing.T) {
	e := stagedEastOn(t)
	e.take(e.version(policy.Regional, 1, true, nil))
	e.take(e.version(policy.Regional, 2, false, nil))
	back := e.version(policy.Regional, 3, true, nil)
	back.Record.Change = "the shops were shut out"
	e.take(back)
	e.take(e.version(policy.Regional, 4, false, selfFirst))
	e.look(4, rollout.Enforcing)
	k, _ := e.p.Newest(policy.Regional, "east.dev.example")
	if err := e.p.move(k, rollout.State{Phase: rollout.Stopped, Since: time.Now(), Reason: "it denies"}, "self", back); err != nil {
		t.Fatal(err)
	}
	e.p.mu.Lock()
	e.p.stale = map[string]string{policy.Regional: policy.Freeze}
	err := e.p.install(nil, decision.Stale, "", false, time.Now())
	e.p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.p.restale(0); err != nil { // it ends
		t.Fatal(err)
	}
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range e.changes {
		line := string(c.Why)
		for _, r := range c.Records {
			line += fmt.Sprintf(" %s %d->%d", r.Level, r.From, r.Version)
			if len(r.Record) != 64 || len(r.Key) != 64 || r.Author != "spiffe://east.dev.example/operator" {
				t.Errorf("%+v", r)
			}
		}
		got = append(got, line)
	}
	want := []string{
		"start",
		"publish global 0->1", "publish regional 0->1", "publish regional 1->2", "rollback regional 2->3", "rollout regional 3->4", "revert regional 4->3",
		"stale", "stale", "start global 0->1 regional 0->3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
	leaves, err := e.st.Outbox(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, l := range leaves {
		if l.Kind == trail.PolicyActivate.String() && strings.Contains(string(l.Body), "revision") {
			told++
		}
	}
	if told != len(want) {
		t.Errorf("%d leaves of %d changes", told, len(want))
	}

	before := e.engine.Revision()
	e.untold = errors.New("the disk is full")
	if refused, err := e.p.Take(e.version(policy.Regional, 9, true, nil), false); refused != nil || !errors.Is(err, e.untold) || e.engine.Revision() != before {
		t.Errorf("not recorded: %v, %v; %s is in force", refused, err, e.engine.Revision())
	}
	e.untold = nil
	if err := e.start(); err != nil { // it was kept, and is put in force once that can be told
		t.Fatal(err)
	}
	e.expect(9)
}
