package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

func pair(t *testing.T) (a, b *testNode, ca *authority) {
	ca = newAuthority(t, td)
	a = start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	b = start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	return a, b, ca
}

func TestDialStreamsDatagrams(t *testing.T) {
	a, b, _ := pair(t)
	got := make(chan []byte, 1)
	b.HandleDatagram(7, func(peer spiffeid.ID, p []byte) {
		if peer == a.svid.ID {
			got <- p
		}
	})
	c := a.mustDial(b)
	echo(t, c, "hello")
	big := bytes.Repeat([]byte("x"), MaxDatagram)
	if err := c.SendDatagram(7, big); err != nil {
		t.Fatal(err)
	}
	select {
	case p := <-got:
		if !bytes.Equal(p, big) {
			t.Errorf("datagram changed: %d bytes", len(p))
		}
	case <-time.After(10 * time.Second):
		t.Error("datagram of MaxDatagram bytes did not arrive")
	}
	if err := c.SendDatagram(7, append(big, 'x')); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
	// One connection serves both ways, whoever asks and by whatever it is named.
	back, ok := b.Conn(a.svid.ID)
	if !ok || back.s.qc.ConnectionState().TLS.PeerCertificates == nil {
		t.Fatal("b does not know a")
	}
	echo(t, back, "back")
	if again := a.mustDial(b); again != c {
		t.Error("second Dial made a second connection")
	}
	if again, err := a.Dial(t.Context(), b.Addr(), spiffeid.ID{}); err != nil || again != c {
		t.Errorf("Dial by address alone: %v, %v", again, err)
	}
	peers := b.Peers()
	if len(peers) != 1 || peers[0].ID != a.svid.ID || peers[0].Addr != a.Addr() || peers[0].CertExpires.IsZero() {
		t.Errorf("b.Peers() = %+v", peers)
	}
	if n := b.counter("bailiwick_link_handshakes_total", map[string]string{"kind": "node", "side": "accept", "result": "ok"}); n != 1 {
		t.Errorf("accepted handshakes counted: %v", n)
	}
	if n := a.counter("bailiwick_link_connections", map[string]string{"kind": "node"}); n != 1 {
		t.Errorf("live connections counted: %v", n)
	}
}

func TestWhoIsRefused(t *testing.T) {
	ca, west := newAuthority(t, td), newAuthority(t, "west.dev.example")
	b := start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	b.door.shutOut(node("held"), "standing is quarantined: see `bailiwick quarantine list`")
	tests := []struct {
		name  string
		start func() *testNode
		want  spiffeid.ID
		err   error
		text  string
	}{
		{"foreign to it", func() *testNode { return start(t, west.svid(t, "/node/a", time.Hour), nil, ca, west) }, spiffeid.ID{}, ErrPeerRefused, "no trust bundle for our trust domain"},
		{"foreign to us", func() *testNode { return start(t, ca.svid(t, "/node/a1", time.Hour), nil, west) }, spiffeid.ID{}, ErrUnauthorized, identity.ErrForeign.Error()},
		{"false root", func() *testNode {
			other := newAuthority(t, td)
			return start(t, other.svid(t, "/node/a2", time.Hour), nil, ca)
		}, spiffeid.ID{}, ErrPeerRefused, "does not trust our certificate"},
		{"expired", func() *testNode { return start(t, ca.svid(t, "/node/a3", -time.Minute), nil, ca) }, spiffeid.ID{}, ErrOwnExpired, "it ended"},
		{"not a node", func() *testNode { return start(t, ca.svid(t, "/workload/shop", time.Hour), nil, ca) }, spiffeid.ID{}, ErrPeerRefused, "not welcome"},
		{"not welcome", func() *testNode { return start(t, ca.svid(t, "/node/held", time.Hour), nil, ca) }, spiffeid.ID{}, ErrPeerRefused, "standing is quarantined"},
		{"wrong peer", func() *testNode { return start(t, ca.svid(t, "/node/a4", time.Hour), nil, ca) }, node("c"), ErrWrongPeer, "spiffe://east.dev.example/node/c"},
		{"itself", func() *testNode { return start(t, ca.svid(t, "/node/b", time.Hour), nil, ca) }, spiffeid.ID{}, ErrUnauthorized, "the node itself"},
		{"nobody is authorised", func() *testNode {
			return start(t, ca.svid(t, "/node/a5", time.Hour), func(c *Config) { c.Authorize = nil }, ca)
		}, spiffeid.ID{}, ErrUnauthorized, "nothing here says who is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := tt.start()
			_, err := a.Dial(t.Context(), b.Addr(), tt.want)
			if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v\nwant %v with %q", err, tt.err, tt.text)
			}
			if want := strings.HasPrefix(tt.name, "not "); Unwelcome(err) != want {
				t.Errorf("unwelcome is %v, want %v: %v", !want, want, err)
			}
			if len(a.Peers()) != 0 || len(a.events()) != 0 {
				t.Errorf("a refused peer was reported: %v, %v", a.Peers(), a.events())
			}
		})
	}
	if len(b.Peers()) != 0 || len(b.events()) != 0 {
		t.Errorf("b reported a refused peer: %v, %v", b.Peers(), b.events())
	}
}

func TestPortBusy(t *testing.T) {
	a, _, _ := pair(t)
	_, err := Listen(Config{Listen: a.Addr().String(), SVID: a.svid, Bundles: a.bundles})
	if !errors.Is(err, ErrPortBusy) || !strings.Contains(err.Error(), a.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestRecheckCuts(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(a, b *testNode)
		reason string
	}{
		{"standing", func(a, b *testNode) { a.door.shutOut(b.svid.ID, "quarantined") }, "quarantined"},
		{"bundle", func(a, _ *testNode) {
			other := newAuthority(t, td)
			a.bundles.Add(other.bundle())
		}, "does not chain"},
		{"no bundle", func(a, _ *testNode) { a.bundles.Remove(spiffeid.RequireTrustDomainFromString(td)) }, "no trust bundle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b, _ := pair(t)
			c := b.mustDial(a)
			s, err := c.OpenStream(t.Context(), "echo")
			if err != nil {
				t.Fatal(err)
			}
			a.Recheck()
			if _, ok := a.Conn(b.svid.ID); !ok {
				t.Fatal("Recheck closed a connection that is fine")
			}
			tt.spoil(a, b)
			began := time.Now()
			a.Recheck()
			_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = s.Read(make([]byte, 1))
			if took := time.Since(began); took > recheckEvery/3 { // by itself it would come to that in recheckEvery
				t.Errorf("took %v", took)
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("the peer's stream saw %v, want the reason %q", err, tt.reason)
			}
			eventually(t, "both report the peer down", func() bool { return len(a.events()) == 2 && len(b.events()) == 2 })
			if _, err := b.dial(a); !errors.Is(err, ErrPeerRefused) {
				t.Errorf("re-dial: %v", err)
			}
		})
	}
}

func TestStreamProtocols(t *testing.T) {
	a, b, _ := pair(t)
	c := a.mustDial(b)
	for _, name := range []string{"", "Echo", "e cho", strings.Repeat("x", 33)} {
		if _, err := c.OpenStream(t.Context(), name); !errors.Is(err, ErrProtocolName) {
			t.Errorf("OpenStream(%q): %v", name, err)
		}
	}
	s, err := c.OpenStream(t.Context(), "no-such")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrNoProtocol) {
		t.Errorf("unknown protocol: %v", err)
	}
	for name, header := range map[string][]byte{"oversized": append([]byte{33}, bytes.Repeat([]byte("x"), 33)...), "empty": {0}, "bad byte": {1, 0xff}} {
		qs, err := c.s.qc.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		raw := newStream(c.s.qc, qs)
		_, _ = raw.Write(header)
		if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
			t.Errorf("%s header: %v", name, err)
		}
	}
	echo(t, c, "the connection is still healthy")
}

func TestStreamClose(t *testing.T) {
	a, b, _ := pair(t)
	accepted := make(chan *Stream, 1)
	b.Handle("hold", func(_ context.Context, _ spiffeid.ID, s *Stream) { accepted <- s })
	c := a.mustDial(b)
	open := func() (*Stream, *Stream) {
		s, err := c.OpenStream(t.Context(), "hold")
		if err != nil {
			t.Fatal(err)
		}
		return s, <-accepted
	}
	t.Run("close delivers what was written", func(t *testing.T) {
		s, r := open()
		defer r.Close()
		_, _ = io.WriteString(s, "last words")
		_ = s.Close()
		if got, err := io.ReadAll(r); string(got) != "last words" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
	})
	t.Run("close interrupts a write", func(t *testing.T) {
		s, r := open()
		defer r.Close()
		failed := make(chan error, 1)
		go func() {
			for {
				if _, err := s.Write(make([]byte, 1<<20)); err != nil {
					failed <- err
					return
				}
			}
		}()
		_, _ = r.Read(make([]byte, 1)) // the writer is at work, and r reads no more
		eventually(t, "a write in progress", func() bool {
			if s.writing.TryLock() {
				s.writing.Unlock()
				return false
			}
			return true
		})
		_ = s.Close()
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Errorf("interrupted write: %v", err)
		}
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, ErrReset) {
			t.Errorf("reader of an interrupted write: %v", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		s, r := open()
		defer s.Close()
		defer r.Close()
		_ = s.SetReadDeadline(time.Now().Add(-time.Second))
		var ne net.Error
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("read past its deadline: %v", err)
		}
	})
}

func TestCloseSaysWhy(t *testing.T) {
	a, b, _ := pair(t)
	c := a.mustDial(b)
	_ = b.Close()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a did not hear that b closed")
	}
	if err := c.Err(); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("got %v", err)
	}
	if err := c.SendDatagram(1, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("datagram after the end: %v", err)
	}
	if _, err := b.Dial(t.Context(), a.Addr(), spiffeid.ID{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Dial on a closed link: %v", err)
	}
	eventually(t, "up and down", func() bool { return len(a.events()) == 2 })
}

func TestPeerComesBackAsAnotherProcess(t *testing.T) {
	// The smaller ID dialled first, so by initiator alone the old connection would
	// win; the new process has another instance, so the new one does.
	ca := newAuthority(t, td)
	a := start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	svid := ca.svid(t, "/node/b", time.Hour)
	b1 := start(t, svid, nil, ca)
	old := a.mustDial(b1)
	b2 := start(t, svid, nil, ca)
	b2.mustDial(a)
	select {
	case <-old.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the old connection was kept")
	}
	c, ok := a.Conn(svid.ID)
	if !ok || c == old || c.RemoteAddr() != b2.Addr() {
		t.Fatal("the new connection is not in use")
	}
	echo(t, c, "hi")
	eventually(t, "up, down, up", func() bool {
		e := a.events()
		return len(e) == 3 && e[0].up && !e[1].up && e[2].up
	})
}

func TestCrossedDials(t *testing.T) {
	for range 10 {
		a, b, _ := pair(t)
		errs := make(chan error, 2)
		for _, p := range [][2]*testNode{{a, b}, {b, a}} {
			go func() { _, err := p[0].dial(p[1]); errs <- err }()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		settled := func() bool {
			ca, okA := a.Conn(b.svid.ID)
			cb, okB := b.Conn(a.svid.ID)
			return okA && okB && ca.bout.initiator == cb.bout.initiator
		}
		eventually(t, "both use the same connection", settled)
		c, _ := a.Conn(b.svid.ID)
		echo(t, c, "after the crossing")
	}
}

func TestReplaces(t *testing.T) {
	small, large := node("a"), node("b")
	t0 := time.Unix(1000, 0)
	tests := []struct {
		name           string
		later, earlier bout
		want           bool
	}{
		{"crossed, the smaller came later", bout{initiator: small, since: t0.Add(time.Second)}, bout{initiator: large, since: t0}, true},
		{"crossed, the smaller came first", bout{initiator: large, since: t0.Add(time.Second)}, bout{initiator: small, since: t0}, false},
		{"re-dial by the same side", bout{initiator: large, since: t0.Add(time.Second)}, bout{initiator: large, since: t0}, true},
		{"re-dial after long", bout{initiator: large, since: t0.Add(time.Minute)}, bout{initiator: small, since: t0}, true},
		{"another process", bout{initiator: large, since: t0.Add(time.Second), instance: [16]byte{1}}, bout{initiator: small, since: t0}, true},
	}
	for _, tt := range tests {
		if got := replaces(tt.later, tt.earlier); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestDatagramQueueNeverBlocks(t *testing.T) {
	a, b, _ := pair(t)
	c := a.mustDial(b)
	stuck := &Conn{l: a.Link, s: c.s, out: make(chan []byte, queueLen)} // no writer
	full := 0
	for range queueLen + 3 {
		if errors.Is(stuck.SendDatagram(1, []byte("x")), ErrQueueFull) {
			full++
		}
	}
	if full != 3 {
		t.Errorf("%d of 3 over the queue were refused", full)
	}
	if n := a.counter("bailiwick_link_datagrams_dropped_total", map[string]string{"reason": "queue"}); n != 3 {
		t.Errorf("counted %v", n)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{4, 'e', 'c', 'h', 'o', 'x'})
	f.Add([]byte{33})
	f.Add([]byte{0})
	f.Add([]byte{2, 'A', 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		name, err := readHeader(r)
		if read := len(b) - r.Len(); read > 1+maxName {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil {
			return
		}
		if again := appendHeader(nil, name); !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%q re-encodes to %x", name, again)
		}
	})
}

// A connection is in use while a stream is open or datagrams pass; who closes one that
// nobody uses tells the peer so.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := simulated(t, time.Hour, time.Hour)
		c := a.mustDial(b)
		back, _ := b.Conn(a.svid.ID)
		time.Sleep(time.Minute)
		if c.Idle() < time.Minute || back.Idle() < time.Minute {
			t.Errorf("idle for %s and %s", c.Idle(), back.Idle())
		}
		b.HandleDatagram(9, func(spiffeid.ID, []byte) {})
		if err := c.SendDatagram(9, []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if c.Idle() > time.Second || back.Idle() > time.Second {
			t.Errorf("after a datagram: idle for %s and %s", c.Idle(), back.Idle())
		}
		s, err := c.OpenStream(t.Context(), "echo")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if c.Idle() != 0 || back.Idle() != 0 {
			t.Errorf("with a stream open: idle for %s and %s", c.Idle(), back.Idle())
		}
		_ = s.CloseWrite()
		_ = s.Close()
		s.Reset() // closing twice counts once
		time.Sleep(time.Second)
		if c.Idle() != time.Second || back.Idle() == 0 {
			t.Errorf("after the stream: idle for %s and %s", c.Idle(), back.Idle())
		}
		c.Close()
		<-back.Done()
		if err := back.Err(); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "nothing used") {
			t.Errorf("the peer hears %v", err)
		}
		stop(a, b)
	})
}
