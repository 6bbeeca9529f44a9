package replica

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A peer whose stream for state is stuck still gets what an authority signed at once, and
// with it the ordinary records before it that are stuck there or were left out: it could
// only park it without them.
func TestUrgentBringsItsPredecessors(t *testing.T) {
	for name, stuck := range map[string]int{"stuck": 20, "left out": 1300} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, slow := newNode(t, 1), newHostile(t, 3)
				quick, theirs := newPipe()
				state, theirState := newPipe()
				ended := make(chan error, 1)
				go func() { ended <- a.AttachPair(t.Context(), slow.id, theirs, theirState) }()
				var came []uint64
				go func() {
					in := bufio.NewReader(quick)
					for {
						kind, body, err := readFrame(in)
						if err != nil {
							return
						}
						if kind == frameRecord {
							rec, err := feed.Parse(body)
							if err != nil {
								t.Error(err)
							}
							came = append(came, rec.Seq)
						}
					}
				}()
				synctest.Wait()
				b := newNode(t, 2) // others' records fill the stream, and are none of this
				connect(a, b)
				for i := range stuck {
					b.put("other", fmt.Sprint(i, strings.Repeat("x", 900)))
				}
				a.put("shop", "1")
				a.put("shop", "2")
				synctest.Wait()
				urgent, err := a.Put(t.Context(), op(feed.KeyOf(a.id, feed.KindAuthority, "rule"), "signed"))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if len(came) == 0 || came[len(came)-1] != urgent.Seq {
					t.Fatalf("came %v, want the last to be %d", came, urgent.Seq)
				}
				for i, seq := range came {
					if seq != urgent.Seq-uint64(len(came)-1-i) {
						t.Fatalf("came %v, want no gap", came)
					}
				}
				if len(came) < 3 || len(came) > 4 {
					t.Errorf("came %v, want what is stuck before it, and that once", came)
				}
				again, err := a.Put(t.Context(), op(feed.KeyOf(a.id, feed.KindAuthority, "rule"), "signed again"))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if n := len(came); came[n-1] != again.Seq || came[n-2] != urgent.Seq {
					t.Errorf("came %v, want only %d more", came, again.Seq)
				}
				for _, c := range []io.Closer{quick, state} {
					c.Close()
				}
				<-ended
			})
		})
	}
}
