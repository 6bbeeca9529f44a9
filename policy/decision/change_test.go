package decision

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// A change is an event and a leaf, or neither; it is in the segments, in its place, and no decision:
// the newest denial stays the newest denial.
func TestChange(t *testing.T) {
	c := Change{Why: RolledBack, From: "global@1+regional@2#a", To: "global@1+regional@3#b", Records: []ChangedRecord{
		{Level: "regional", Scope: "east.dev.example", From: 2, Version: 3, Record: strings.Repeat("ab", 32), Author: "spiffe://east.dev.example/operator", Change: "rollback to version 1"},
	}}
	for _, fault := range []store.Fault{store.NoFault, store.FaultBefore, store.FaultAfter} {
		dir := t.TempDir()
		st, err := store.OpenFaulty(filepath.Join(dir, "state.db"), func(op int) store.Fault {
			if op == 1 {
				return fault
			}
			return store.NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		l := New(Config{Store: st, Dir: filepath.Join(dir, DirName), Labels: map[string]string{"id": "spiffe://east.dev.example/node/n1"}})
		err = st.Update(func(tx *store.Tx) error { return l.Change(tx, c) })
		if (err != nil) != (fault != store.NoFault) {
			t.Fatalf("fault %v: %v", fault, err)
		}
		st.Close()
		if st, err = store.Open(filepath.Join(dir, "state.db")); err != nil {
			t.Fatal(err)
		}
		l = New(Config{Store: st, Dir: filepath.Join(dir, DirName)})
		if _, err := l.Last(); !errors.Is(err, ErrNotFound) {
			t.Errorf("fault %v: the newest denial: %v", fault, err)
		}
		if err := l.Rotate(); err != nil {
			t.Fatal(err)
		}
		var events []Event
		for e, err := range Read(dir) {
			if errors.Is(err, ErrNothing) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		leaves, _ := st.Outbox(0, 10)
		told := 0
		for _, leaf := range leaves {
			if leaf.Kind == trail.PolicyActivate.String() {
				told++
			}
		}
		if len(events) != told || fault == store.NoFault && told != 1 || fault == store.FaultBefore && told != 0 {
			t.Errorf("fault %v: %d events, %d leaves", fault, len(events), told)
		}
		for _, e := range events {
			if e.Kind() != KindChange || e.Change == nil || e.Change.Records[0] != c.Records[0] || e.Replayable() || e.Bundles["regional"].Revision != "3" ||
				e.Result.Reason != "rollback: regional east.dev.example: 2 -> 3, signed for spiffe://east.dev.example/operator" || time.Since(e.Timestamp) > time.Minute {
				t.Errorf("%+v", e)
			}
		}
		st.Close()
	}
}
