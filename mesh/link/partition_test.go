package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// simulated starts two nodes in the current bubble, joined by a link of 20 ms
// each way. While cut is set, a loses all packets from and to b.
func simulated(t *testing.T, lifeA, lifeB time.Duration) (a, b *testNode, cut *atomic.Bool) {
	ca := newAuthority(t, td)
	router := &simnet.Simnet{Router: &simnet.PerfectRouter{}}
	conn := func(ip string) net.PacketConn {
		return router.NewEndpoint(&net.UDPAddr{IP: net.ParseIP(ip).To4(), Port: 7000}, simnet.NodeBiDiLinkSettings{Latency: 20 * time.Millisecond})
	}
	pa, pb := conn("192.0.2.1"), conn("192.0.2.2")
	if err := router.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = router.Close() })
	cut = new(atomic.Bool)
	isB := netip.MustParseAddrPort("192.0.2.2:7000")
	a = start(t, ca.svid(t, "/node/a", lifeA), func(c *Config) {
		c.PacketConn = pa
		c.Refuse = func(addr netip.AddrPort) bool { return cut.Load() && addr == isB }
	}, ca)
	b = start(t, ca.svid(t, "/node/b", lifeB), func(c *Config) { c.PacketConn = pb }, ca)
	return a, b, cut
}

func TestPartitionAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, cut := simulated(t, time.Hour, time.Hour)
		c := a.mustDial(b)
		echo(t, c, "before")
		time.Sleep(5 * time.Minute) // idle, kept alive
		synctest.Wait()
		if c.Err() != nil {
			t.Fatalf("an idle connection ended: %v", c.Err())
		}
		cut.Store(true)
		began := time.Now()
		<-c.Done()
		if took := time.Since(began); took > maxIdle+keepAlive {
			t.Errorf("a noticed after %v", took)
		}
		if err := c.Err(); !errors.Is(err, ErrUnreachable) {
			t.Errorf("why: %v", err)
		}
		time.Sleep(keepAlive + maxIdle)
		synctest.Wait()
		if len(b.Peers()) != 0 || len(b.events()) != 2 {
			t.Errorf("b did not notice: %v", b.events())
		}
		if _, err := a.dial(b); !errors.Is(err, ErrUnreachable) {
			t.Errorf("dial through the partition: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := a.Dial(ctx, b.Addr(), b.svid.ID); !errors.Is(err, ErrUnreachable) || time.Since(began) > 2*time.Second {
			t.Errorf("impatient dial: %v after %v", err, time.Since(began))
		}
		cut.Store(false)
		again, err := b.dial(a)
		if err != nil {
			t.Fatalf("dial after the heal: %v", err)
		}
		echo(t, again, "after")
		stop(a, b)
		if e := a.events(); len(e) != 4 || !e[2].up {
			t.Errorf("a's events: %v", e)
		}
	})
}

// stop closes links inside the bubble they live in.
func stop(nodes ...*testNode) {
	for _, n := range nodes {
		_ = n.Close()
	}
}

// TestCertificateEnd: a connection lives as long as the first of both
// certificates, to the second, and both ends know why it ended.
func TestCertificateEnd(t *testing.T) {
	for name, lives := range map[string][2]time.Duration{
		"own":   {10 * time.Minute, time.Hour},
		"peer":  {time.Hour, 10 * time.Minute},
		"three": {20 * time.Minute, 20 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, _ := simulated(t, lives[0], lives[1])
				end := time.Now().Add(min(lives[0], lives[1])).Truncate(time.Second)
				c := a.mustDial(b)
				time.Sleep(time.Until(end) - time.Second)
				if c.Err() != nil {
					t.Fatalf("ended early: %v", c.Err())
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if err := c.Err(); !errors.Is(err, ErrClosed) {
					t.Errorf("after the end: %v", err)
				}
				if len(b.Peers()) != 0 {
					t.Error("the other end lives on")
				}
				if _, err := a.dial(b); err == nil {
					t.Error("re-dial with an expired certificate succeeded")
				}
				stop(a, b)
			})
		})
	}
}

// TestCrossedDialsSettle: of two connections that cross, one is left after the
// drain, at both ends the same, and neither end ever reports the peer lost for
// good.
func TestCrossedDialsSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := simulated(t, time.Hour, time.Hour)
		errs := make(chan error, 2)
		go func() { _, err := a.dial(b); errs <- err }()
		go func() { _, err := b.dial(a); errs <- err }()
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * drainFor)
		synctest.Wait()
		for _, n := range []*testNode{a, b} {
			n.mu.Lock()
			last := n.seen[len(n.seen)-1]
			n.mu.Unlock()
			if !last.up {
				t.Errorf("%s: events %v", n.svid.ID, n.events())
			}
			if live := n.counter("bailiwick_link_connections", nil); live != 1 {
				t.Errorf("%s: %v connections after the drain", n.svid.ID, live)
			}
		}
		ca, _ := a.Conn(b.svid.ID)
		cb, _ := b.Conn(a.svid.ID)
		if ca == nil || cb == nil || ca.bout.initiator != a.svid.ID || cb.bout.initiator != a.svid.ID {
			t.Errorf("not the connection of the smaller ID: %v, %v", ca, cb)
		}
		echo(t, ca, "settled")
		stop(a, b)
	})
}

// TestClockIsRechecked: Run alone, without a call to Recheck, closes what is no
// longer welcome.
func TestClockIsRechecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := simulated(t, time.Hour, time.Hour)
		c := a.mustDial(b)
		b.door.shutOut(a.svid.ID, "revoked")
		time.Sleep(recheckEvery + time.Second)
		synctest.Wait()
		if err := c.Err(); !errors.Is(err, ErrPeerRefused) {
			t.Errorf("got %v", err)
		}
		stop(a, b)
	})
}

// TestFilterCostsOnlyWhereUsed: without Refuse quic-go sees the bare socket and
// all its offloads; with Refuse it cannot.
func TestFilterCostsOnlyWhereUsed(t *testing.T) {
	ca := newAuthority(t, td)
	b := start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	bare := start(t, ca.svid(t, "/node/a1", time.Hour), nil, ca)
	filtered := start(t, ca.svid(t, "/node/a2", time.Hour), func(c *Config) {
		c.Refuse = func(netip.AddrPort) bool { return false }
	}, ca)
	qc, err := rawTransport(t).Dial(t.Context(), net.UDPAddrFromAddrPort(b.Addr()), rawConf(b, ca.svid(t, "/node/a3", time.Hour), ProtoNode), b.quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	can := qc.ConnectionState().GSO // what a bare socket has on this machine
	if got := bare.mustDial(b).s.qc.ConnectionState().GSO; got != can {
		t.Errorf("bare socket: GSO %v, machine %v", got, can)
	}
	if filtered.mustDial(b).s.qc.ConnectionState().GSO {
		t.Error("a filtered socket bypasses the filter with GSO")
	}
}
