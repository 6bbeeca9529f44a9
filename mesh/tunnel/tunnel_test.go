package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

func TestConnection(t *testing.T) {
	f, a, b := pair(t)
	b.serve(target(t, echo("b")))
	for range 3 {
		wantTalk(t, a.dial(t), "b")
	}
	if s, u := a.signed.Load(), b.signed.Load(); s != 1 || u != 1 {
		t.Errorf("node keys signed %d and %d times, want once each", s, u)
	}
	eventually(t, "connections end, the tunnel stays", func() bool {
		return a.Stats() == Stats{TunnelsOut: 1} && b.Stats() == Stats{TunnelsIn: 1}
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	dial, accept := f.inputs[0], f.inputs[1]
	for _, in := range []policy.Input{dial, accept} {
		if in.Source.SPIFFEID != "spiffe://east.dev.example/workload/client" || in.Source.Node != "a" ||
			in.Destination.SPIFFEID != "spiffe://east.dev.example/workload/shop" || in.Destination.Node != "b" ||
			in.Service.Name != shop || in.Kind != policy.Connect || in.V != policy.InputVersion || in.Time.Unix == 0 {
			t.Errorf("input %+v", in)
		}
	}
	if dial.Action.Name != policy.Dial || dial.Self.Node != "a" || accept.Action.Name != policy.Accept || accept.Self.Node != "b" {
		t.Errorf("inputs %+v and %+v", dial, accept)
	}
}

// What a node shows of its attestation reaches the other end, each way.
func TestEndorsement(t *testing.T) {
	f := newFleet(t, east)
	shown := make(chan string, 2)
	with := func(name string) func(*Config) {
		return func(c *Config) {
			c.Endorsement = func() []byte { return []byte("of " + name) }
			c.Endorsed = func(node spiffeid.ID, leaf *x509.Certificate, e []byte) {
				if id, _ := x509svid.IDFromCert(leaf); id != node {
					t.Errorf("leaf of %s for %s", id, node)
				}
				shown <- node.Path() + " shows " + string(e)
			}
		}
	}
	a := f.start(east, "/node/a", "/workload/client", with("a"))
	b := f.start(east, "/node/b", "/workload/shop", with("b"))
	b.serve(target(t, echo("b")))
	wantTalk(t, a.dial(t), "b")
	if first, second := <-shown, <-shown; first != "/node/a shows of a" || second != "/node/b shows of b" {
		t.Errorf("%q, then %q", first, second)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	_, a, b := pair(t)
	b.serve(target(t, echo("b")))
	c := a.dial(t)
	buf := make([]byte, 2)
	if _, err := io.ReadFull(c, buf); string(buf) != "b\n" || err != nil {
		t.Fatalf("%q, %v", buf, err)
	}
}

func TestSameNode(t *testing.T) {
	f := newFleet(t, east)
	a := f.start(east, "/node/a", "/workload/shop", nil)
	a.serve(target(t, echo("a")))
	wantTalk(t, a.dial(t), "a")
	if s := a.Stats(); s.TunnelsOut+s.TunnelsIn != 0 {
		t.Errorf("stats %+v: a tunnel to itself", s)
	}
	f.set(func() { f.deny = policy.Accept })
	a.wantRefused(t)
	if r := a.refusal(); !errors.Is(r.Cause, ErrDenied) || !r.Recorded || r.Rule != "rule-accept" {
		t.Errorf("refusal %+v", r)
	}
	f.set(func() { f.deny = "" })
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	f.set(func() { f.deny = policy.Accept })
	a.Recheck()
	wantReset(t, c)
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(f *fleet, a, b *testNode)
		want   error
		check  func(r Refusal) bool
	}{
		{"denied at the source", func(f *fleet, a, b *testNode) { f.deny = policy.Dial }, ErrDenied,
			func(r Refusal) bool { return r.Recorded && r.Decision == "d-dial" && r.Rule == "rule-dial" }},
		{"denied at the destination", func(f *fleet, a, b *testNode) { f.deny = policy.Accept }, ErrDenied,
			func(r Refusal) bool { return !r.Recorded && r.Decision == "d-accept" && r.Rule == "rule-accept" }},
		{"unknown workload", func(f *fleet, a, b *testNode) { a.workload.Store(nil) }, ErrUnknownWorkload, func(r Refusal) bool { return r.PID == os.Getpid() && r.Exe != "" }},
		{"no service", func(f *fleet, a, b *testNode) { f.unnamed = true }, ErrNoService, nil},
		{"no owner", func(f *fleet, a, b *testNode) { f.owners = nil }, ErrNoOwner, nil},
		{"owner not allowed", func(f *fleet, a, b *testNode) { f.allowed = nil }, ErrNoOwner, nil},
		{"nothing listens", func(f *fleet, a, b *testNode) {
			s := *b.serves.Load()
			s.Addr = netip.MustParseAddrPort("127.0.0.1:1")
			b.serves.Store(&s)
		}, ErrNoTarget, nil},
		{"wrong owner", func(f *fleet, a, b *testNode) {
			b.workload.Store(f.ca[east].svid("/workload/thief", time.Hour))
		}, ErrWrongOwner, nil},
		{"quarantined node", func(f *fleet, a, b *testNode) { f.refuse[b.svid.ID] = true }, ErrNodeRefused, nil},
		{"another workload answers", func(f *fleet, a, b *testNode) {
			s := *b.serves.Load()
			s.SVID = f.ca[east].svid("/workload/thief", time.Hour)
			b.serves.Store(&s)
		}, ErrUnreachable, nil},
		{"another node answers", func(f *fleet, a, b *testNode) {
			f.owners[0].Node = spiffeid.RequireFromString("spiffe://east.dev.example/node/c")
		}, ErrNodeRefused, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, a, b := pair(t)
			reached := make(chan bool, 1)
			b.serve(target(t, func(c *net.TCPConn) {
				if n, _ := c.Read(make([]byte, 1)); n > 0 {
					reached <- true
				}
			}))
			f.set(func() { tc.change(f, a, b) })
			a.wantRefused(t)
			r := a.refusal()
			if !errors.Is(r.Cause, tc.want) || r.Side != Source || r.Service != shop || tc.check != nil && !tc.check(r) {
				t.Errorf("refusal %+v, want %v", r, tc.want)
			}
			select {
			case <-reached:
				t.Error("bytes reached the target")
			default:
			}
			if tc.name == "denied at the destination" {
				if r := b.refusal(); !r.Recorded || r.Side != Destination || r.Node != a.svid.ID || r.Workload != a.workload.Load().ID {
					t.Errorf("destination's refusal %+v", r)
				}
			}
		})
	}
}

// The first bytes of the client go to the owner that answers, whole and once.
func TestFailover(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(f *fleet, b *testNode)
	}{
		{"nothing listens", func(f *fleet, b *testNode) {
			s := *b.serves.Load()
			s.Addr = netip.MustParseAddrPort("127.0.0.1:1")
			b.serves.Store(&s)
		}},
		{"wrong owner", func(f *fleet, b *testNode) { b.workload.Store(f.ca[east].svid("/workload/thief", time.Hour)) }},
		{"serves it no more", func(f *fleet, b *testNode) { b.serves.Store(nil) }},
		{"quarantined", func(f *fleet, b *testNode) { f.refuse[b.svid.ID] = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, a, b := pair(t)
			far := f.start(east, "/node/c", "/workload/shop", nil)
			b.serve(target(t, echo("b")))
			far.serve(target(t, echo("c")))
			f.set(func() { tc.spoil(f, b) })
			for range 2 {
				wantTalk(t, a.dial(t), "c")
			}
		})
	}
}

func TestZones(t *testing.T) {
	f := newFleet(t, east, west)
	a := f.start(east, "/node/a", "/workload/client", nil)
	b := f.start(east, "/zone/z2/node/b", "/zone/z1/workload/shop", nil)
	b.serve(target(t, echo("b")))
	a.wantRefused(t)
	if r := a.refusal(); !errors.Is(r.Cause, ErrNodeRefused) {
		t.Errorf("workload of another zone: %v", r.Cause)
	}
	f.set(func() { f.owners, f.allowed = nil, nil })
	c := f.start(east, "/zone/z1/node/c", "/zone/z1/workload/shop", nil)
	c.serve(target(t, echo("c")))
	wantTalk(t, a.dial(t), "c")
	f.set(func() { f.owners, f.allowed = nil, nil })
	d := f.start(west, "/node/d", "/workload/shop", nil)
	d.serve(target(t, echo("d")))
	wantTalk(t, a.dial(t), "d")
}

func TestCut(t *testing.T) {
	f, a, b := pair(t)
	b.serve(target(t, echo("b")))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	f.set(func() { f.refuse[a.svid.ID] = true })
	b.Cut(a.svid.ID)
	wantReset(t, c)
	eventually(t, "b has nothing left", func() bool { return b.Stats() == Stats{} })
	a.wantRefused(t)
	if r := a.refusal(); !errors.Is(r.Cause, ErrUnreachable) {
		t.Errorf("afterwards: %v", r.Cause)
	}
	f.set(func() { f.refuse = map[spiffeid.ID]bool{} })
	eventually(t, "welcome again", func() bool {
		c, err := a.try(t)
		if err != nil {
			return false
		}
		got, _ := talk(c, "x")
		return got == "b\nx"
	})
	c = a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	a.Cut(b.svid.ID)
	wantReset(t, c)
}

func TestRecheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(f *fleet, a, b *testNode)
		who    func(a, b *testNode) *testNode
	}{
		{"source's policy", func(f *fleet, a, b *testNode) { f.deny = policy.Dial }, func(a, b *testNode) *testNode { return a }},
		{"destination's policy", func(f *fleet, a, b *testNode) { f.deny = policy.Accept }, func(a, b *testNode) *testNode { return b }},
		{"client became another workload", func(f *fleet, a, b *testNode) {
			a.workload.Store(f.ca[east].svid("/workload/other", time.Hour))
		}, func(a, b *testNode) *testNode { return a }},
		{"owner no longer allowed", func(f *fleet, a, b *testNode) { f.allowed = nil }, func(a, b *testNode) *testNode { return a }},
		{"service no longer served", func(f *fleet, a, b *testNode) { b.serves.Store(nil) }, func(a, b *testNode) *testNode { return b }},
		{"standing of the far node", func(f *fleet, a, b *testNode) { f.refuse[b.svid.ID] = true }, func(a, b *testNode) *testNode { return a }},
		{"trust bundle", func(f *fleet, a, b *testNode) { f.bundles.Remove(a.svid.ID.TrustDomain()) }, func(a, b *testNode) *testNode { return b }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, a, b := pair(t)
			b.serve(target(t, echo("b")))
			c := a.dial(t)
			io.ReadFull(c, make([]byte, 2))
			a.Recheck()
			b.Recheck()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("a recheck without a cause: %v", err)
			}
			f.set(func() { tc.change(f, a, b) })
			tc.who(a, b).Recheck()
			wantReset(t, c)
		})
	}
}

// TestStay: what a new connection may not do any more, a live one may go on with.
func TestStay(t *testing.T) {
	f, a, b := pair(t)
	b.serve(target(t, echo("b")))
	for _, n := range []*testNode{a, b} {
		n.cfg.Stay = func(_ context.Context, in policy.Input) policy.Decision {
			return policy.Decision{Allow: true, ID: "s-" + in.Action.Name}
		}
	}
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	f.set(func() { f.deny = policy.Dial })
	a.Recheck()
	b.Recheck()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("a live connection that may stay: %v", err)
	}
	a.wantRefused(t)
}

func TestRenewal(t *testing.T) {
	f, a, b := pair(t)
	b.serve(target(t, echo("b")))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	a.workload.Store(f.ca[east].svid("/workload/client", time.Hour))
	wantTalk(t, a.dial(t), "b")
	if s := a.Stats(); s.TunnelsOut != 2 {
		t.Errorf("stats %+v, want a second tunnel for the new SVID", s)
	}
	a.Recheck()
	if got, err := talk(c, "still here"); got != "still here" || err != nil {
		t.Errorf("connection under the old SVID: %q, %v", got, err)
	}
	eventually(t, "connections end", func() bool { return a.Stats().ConnsOut == 0 })
	for _, s := range a.pool.sweep(time.Now().Add(time.Minute)) {
		s.t.Close("idle")
	}
	eventually(t, "the old tunnel is swept, the new one stays", func() bool { return a.Stats() == Stats{TunnelsOut: 1} })
	wantTalk(t, a.dial(t), "b")
}

func TestExpiry(t *testing.T) {
	f := newFleet(t, east)
	a := f.start(east, "/node/a", "/workload/client", nil)
	b := f.start(east, "/node/b", "/workload/shop", func(c *Config) {
		short := f.ca[east].svid("/node/b", 2*time.Second)
		c.NodeSVID = short
	})
	b.serve(target(t, echo("b")))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	wantReset(t, c)
}

func TestResetsAreCarried(t *testing.T) {
	_, a, b := pair(t)
	got := make(chan error, 1)
	b.serve(target(t, func(c *net.TCPConn) {
		c.Write([]byte("x"))
		buf := make([]byte, 1)
		for {
			if _, err := c.Read(buf); err != nil {
				got <- err
				return
			}
			if buf[0] == 'r' {
				c.SetLinger(0)
				return
			}
		}
	}))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 1))
	abort(c)
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server saw %v, want a reset", err)
	}
	c = a.dial(t)
	io.ReadFull(c, make([]byte, 1))
	c.Write([]byte("r"))
	wantReset(t, c)
	eventually(t, "all connections end", func() bool { return a.Stats().ConnsOut == 0 && b.Stats().ConnsIn == 0 })
}

// A client that has gone and a server that has stopped reading leave nothing.
func TestCloseWithoutReading(t *testing.T) {
	_, a, b := pair(t)
	b.serve(target(t, func(c *net.TCPConn) {
		for { // until the client is gone
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 1<<20))
	c.Close()
	eventually(t, "all connections end", func() bool { return a.Stats().ConnsOut == 0 && b.Stats().ConnsIn == 0 })
}

func TestBulkAndBackPressure(t *testing.T) {
	_, a, b := pair(t)
	read := make(chan bool)
	sums := make(chan [32]byte, 1)
	b.serve(target(t, func(c *net.TCPConn) {
		<-read
		h := sha256.New()
		io.Copy(h, c)
		sums <- [32]byte(h.Sum(nil))
		c.Write(bytes.Repeat([]byte("down"), 1<<20))
	}))
	c := a.dial(t)
	data := make([]byte, 64<<20)
	rand.Read(data)
	c.SetWriteDeadline(time.Now().Add(time.Second))
	sent, err := c.Write(data)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes went to a server that does not read: %v", sent, err)
	}
	close(read)
	c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(data[sent:]); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if got := <-sums; got != sha256.Sum256(data) {
		t.Error("bytes changed on the way up")
	}
	if got, err := io.ReadAll(c); err != nil || len(got) != 4<<20 || !bytes.Equal(got, bytes.Repeat([]byte("down"), 1<<20)) {
		t.Errorf("down: %d bytes, %v", len(got), err)
	}
}

func TestDrain(t *testing.T) {
	_, a, b := pair(t)
	b.serve(target(t, echo("b")))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	done := make(chan bool)
	go func() { b.stop(); close(done) }()
	eventually(t, "no new ones", func() bool {
		c, err := a.try(t)
		if err == nil {
			_, err = talk(c, "x")
		}
		return err != nil
	})
	select {
	case <-done:
		t.Fatal("did not wait for the live connection")
	default:
	}
	if got, err := talk(c, "hello"); got != "hello" || err != nil {
		t.Fatalf("live connection: %q, %v", got, err)
	}
	<-done
	if s := b.Stats(); s != (Stats{}) {
		t.Errorf("stats %+v after the end", s)
	}
}

func TestBusy(t *testing.T) {
	f := newFleet(t, east)
	a := f.start(east, "/node/a", "/workload/client", nil)
	b := f.start(east, "/node/b", "/workload/shop", func(c *Config) { c.MaxConns = 1 })
	b.serve(target(t, echo("b")))
	c := a.dial(t)
	io.ReadFull(c, make([]byte, 2))
	a.wantRefused(t)
	if r := a.refusal(); !errors.Is(r.Cause, ErrBusy) {
		t.Errorf("got %v", r.Cause)
	}
	if r := b.refusal(); !errors.Is(r.Cause, ErrBusy) {
		t.Errorf("there: %v", r.Cause)
	}
	talk(c, "bye")
	eventually(t, "room again", func() bool { return b.Stats().ConnsIn == 0 })
	wantTalk(t, a.dial(t), "b")
}

// A renewed workload, after a restart on the same address, is found again.
func TestTargetRestarts(t *testing.T) {
	_, a, b := pair(t)
	l := must(net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	addr := l.Addr().(*net.TCPAddr)
	serve := func(l *net.TCPListener, name string) {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			echo(name)(c)
			c.Close()
		}
	}
	go serve(l, "first")
	b.serve(addr.AddrPort())
	wantTalk(t, a.dial(t), "first")
	l.Close()
	l = must(net.ListenTCP("tcp4", addr))
	defer l.Close()
	go serve(l, "second")
	wantTalk(t, a.dial(t), "second")
}

func TestListenErrors(t *testing.T) {
	f := newFleet(t, east)
	a := f.start(east, "/node/a", "/workload/client", nil)
	cfg := a.cfg
	cfg.Listeners = []Listener{{a.Addrs()[0], shop}}
	if _, err := Listen(cfg); !errors.Is(err, ErrPortBusy) {
		t.Errorf("busy port: %v", err)
	}
	cfg.Decide = nil
	if _, err := Listen(cfg); err == nil {
		t.Error("no Decide: accepted")
	}
}

func TestMetrics(t *testing.T) {
	f := newFleet(t, east)
	reg := prometheus.NewRegistry()
	a := f.start(east, "/node/a", "/workload/client", func(c *Config) { c.Metrics = reg })
	b := f.start(east, "/node/b", "/workload/shop", nil)
	b.serve(target(t, echo("b")))
	wantTalk(t, a.dial(t), "b")
	f.set(func() { f.deny = policy.Dial })
	a.wantRefused(t)
	a.refusal()
	if n := testutil.ToFloat64(a.m.refused.WithLabelValues("source", "denied")); n != 1 {
		t.Errorf("refused %v", n)
	}
	if n := testutil.ToFloat64(a.m.up); n != 5 {
		t.Errorf("up %v bytes", n)
	}
	if n := testutil.ToFloat64(a.m.down); n != 7 {
		t.Errorf("down %v bytes", n)
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}

func BenchmarkConnect(b *testing.B) {
	f, near, far := pair(b)
	_ = f
	far.serve(target(b, echo("b")))
	wantTalk(b, near.dial(b), "b")
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := must(net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(near.Addrs()[0])))
			if got, err := talk(c, "x"); got != "b\nx" {
				b.Error(got, err)
			}
			c.Close()
		}
	})
}

func BenchmarkBulk(b *testing.B) {
	_, near, far := pair(b)
	far.serve(target(b, func(c *net.TCPConn) { io.Copy(io.Discard, c) }))
	c := near.dial(b)
	c.SetDeadline(time.Time{})
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		must(c.Write(buf))
	}
}
