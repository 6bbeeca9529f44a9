package replica

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A record full of what policy refuses, and of evidence that is none, is one refusal of each
// kind: at the rate that a node may write, a leaf an op would be gigabytes an hour on
// the disks of all.
func TestARecordIsRefusedOnceForEachReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, h := newNode(t, 1), newHostile(t, 8)
		n.deny = func(_ feed.Record, op feed.Op) error {
			if strings.Contains(op.Key, "/evidence/") {
				return nil
			}
			return tooOften{errors.New("not here")}
		}
		var ops []feed.Op
		for i := range 60 {
			ops = append(ops, op(feed.KeyOf(h.id, "x-a", fmt.Sprint(i)), "x"))
			ops = append(ops, op(feed.KeyOf(h.id, feed.KindEvidence, fmt.Sprint(i)), "no proof"))
		}
		h.to(n).send(frameRecord, h.sign(feed.Header{Seq: 1, HLC: now()}, ops...).Bytes())
		settle(time.Second)
		said := map[string]int{}
		for _, leaf := range leavesOf(t, n, LeafRefuse) {
			var l Refuse
			if err := statement.Unmarshal(leaf.Body, &l); err != nil {
				t.Fatal(err)
			}
			said[l.Why]++
			if l.Key == "" || !strings.HasPrefix(l.Detail, "60 ops of this record") {
				t.Errorf("%+v", l)
			}
		}
		if said["rate"] != 1 || said["evidence"] != 1 || len(said) != 3 { // and schema: it is no evidence
			t.Errorf("refusals %v", said)
		}
		for _, o := range ops {
			if _, shown := n.Get(o.Key); shown {
				t.Errorf("%s is shown", o.Key)
			}
		}
	})
}
