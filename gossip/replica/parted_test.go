package replica

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// In a large fleet nodes part all the time, because others have taken their place in the
// mesh. What the other lacks is a debt only of one that was lost, until it is heard of.
func TestWhoPartedIsOwedNothing(t *testing.T) {
	for name, cause := range map[string]error{"parted": io.EOF, "lost": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, c := newNode(t, 1), newNode(t, 2), newNode(t, 3)
				connect(a, c)
				connect(b, c)
				x, y := net.Pipe()
				ctx, end := context.WithCancelCause(t.Context())
				go a.Attach(ctx, b.id, x)
				go b.Attach(ctx, a.id, y)
				settle(3 * time.Second)
				end(cause)
				settle(time.Second)
				a.put("shop", "1") // comes to b by way of c
				settle(10 * time.Second)
				converged(t, a, b, c)
				owes := func() (records uint64, known bool) {
					for _, p := range a.debtNow().Peers {
						if p.Peer == b.id {
							return p.Owed.Records, true
						}
					}
					return 0, false
				}
				if records, known := owes(); cause == io.EOF && known || cause != io.EOF && records == 0 {
					t.Errorf("owes %d records to the one that %s, known %v", records, name, known)
				}
				b.put("shop", "2")
				settle(10 * time.Second)
				if records, known := owes(); known {
					t.Errorf("owes %d records to one of which it heard since", records)
				}
			})
		})
	}
}

// Who is shut out is given nothing, so what it lacks is no debt that should grow.
func TestWhoIsHeldIsOwedNothing(t *testing.T) {
	for name, forks := range map[string]bool{"lost": false, "held": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, liar := newNode(t, 1), newHostile(t, 9)
				x, y := net.Pipe()
				ctx, end := context.WithCancelCause(t.Context())
				go n.Attach(ctx, liar.id, x)
				go io.Copy(io.Discard, y)
				y.Write(frame(frameCert, liar.self.Cert))
				at := now()
				y.Write(frame(frameRecord, liar.sign(feed.Header{Seq: 1, HLC: at}).Bytes()))
				if forks {
					y.Write(frame(frameRecord, liar.sign(feed.Header{Seq: 1, HLC: at + 1}).Bytes()))
				}
				settle(time.Second)
				end(context.Canceled)
				settle(time.Second)
				n.put("shop", "1")
				settle(time.Minute)
				for _, p := range n.debtNow().Peers {
					if p.Peer == liar.id && (p.Owed.Records == 0) != forks {
						t.Errorf("owes it %d records", p.Owed.Records)
					}
				}
				if d := n.debtNow(); len(d.Peers) != 1 || (d.Owed.Records == 0) != forks {
					t.Errorf("owes %+v", d)
				}
			})
		})
	}
}
