package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// spyCache is a session cache that would resume whatever it can.
type spyCache struct {
	tls.ClientSessionCache
	puts atomic.Int32
}

func (c *spyCache) Put(key string, s *tls.ClientSessionState) {
	c.puts.Add(1)
	c.ClientSessionCache.Put(key, s)
}

func anyPeer(spiffeid.ID, [][]*x509.Certificate) error { return nil }

// rawConf is the TLS of a client that keeps no rule of ours but its identity.
func rawConf(n *testNode, svid *x509svid.SVID, proto string) *tls.Config {
	conf := identity.ClientTLS(svid, n.bundles, anyPeer)
	conf.NextProtos = []string{proto}
	conf.ServerName = "shop.east.mesh"
	return conf
}

func rawTransport(t *testing.T) *quic.Transport {
	t.Helper()
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(loopback(0)))
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: u}
	t.Cleanup(func() { _ = tr.Close(); _ = u.Close() })
	return tr
}

// TestResumptionRefused: a client that saves sessions and asks for 0-RTT gets no
// ticket, resumes nothing and sends no early data, so it is checked every time.
func TestResumptionRefused(t *testing.T) {
	ca := newAuthority(t, td)
	b := start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	shop := ca.svid(t, "/workload/shop", time.Hour)
	b.HandleTunnels(func(string) (*x509svid.SVID, error) { return shop, nil }, func(_ context.Context, tun *Tunnel) { <-tun.Done() })
	for proto, path := range map[string]string{ProtoNode: "/node/a", ProtoTunnel: "/workload/client"} {
		t.Run(proto, func(t *testing.T) {
			tr := rawTransport(t)
			cache := &spyCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
			conf := rawConf(b, ca.svid(t, path, time.Hour), proto)
			conf.SessionTicketsDisabled = false
			conf.ClientSessionCache = cache
			for range 3 {
				qc, err := tr.DialEarly(t.Context(), net.UDPAddrFromAddrPort(b.Addr()), conf, b.quicConfig())
				if err != nil {
					t.Fatal(err)
				}
				if proto == ProtoNode {
					if err := b.sendHello(qc); err != nil {
						t.Fatal(err)
					}
					if _, err := readHello(t.Context(), qc); err != nil {
						t.Fatal(err)
					}
				} else if _, err := qc.OpenStreamSync(t.Context()); err != nil {
					t.Fatal(err)
				}
				<-qc.HandshakeComplete()
				if cs := qc.ConnectionState(); cs.TLS.DidResume || cs.Used0RTT {
					t.Errorf("resumed: %v, 0-RTT: %v", cs.TLS.DidResume, cs.Used0RTT)
				}
				_ = qc.CloseWithError(0, "")
			}
			if n := cache.puts.Load(); n != 0 {
				t.Errorf("the server gave %d session tickets", n)
			}
		})
	}
}

// refusedWith dials with a raw client and returns what the server made of it.
func refusedWith(t *testing.T, n *testNode, conf *tls.Config) error {
	t.Helper()
	qc, err := rawTransport(t).Dial(t.Context(), net.UDPAddrFromAddrPort(n.Addr()), conf, n.quicConfig())
	if err != nil {
		return explain(err)
	}
	// In TLS 1.3 the client is done before the server has seen its certificate.
	_, err = readHello(t.Context(), qc)
	return err
}

func TestRawClientsRefused(t *testing.T) {
	ca := newAuthority(t, td)
	b := start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	good := ca.svid(t, "/node/a", time.Hour)
	noCert := rawConf(b, good, ProtoNode)
	noCert.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	tests := []struct {
		name string
		conf *tls.Config
		text string
	}{
		{"expired", rawConf(b, ca.svid(t, "/node/a", -time.Minute), ProtoNode), "outside its validity"},
		{"no certificate", noCert, "showed none"},
		{"wrong ALPN", rawConf(b, good, "h3"), "does not speak this protocol"},
		{"no tunnels here", rawConf(b, good, ProtoTunnel), "does not serve that name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := refusedWith(t, b, tt.conf); !errors.Is(err, ErrPeerRefused) || !strings.Contains(fmt.Sprint(err), tt.text) {
				t.Errorf("got %v, want %q", err, tt.text)
			}
		})
	}
	eventually(t, "refusals are counted", func() bool {
		return b.counter("bailiwick_link_handshakes_total", map[string]string{"side": "accept", "result": "refused_here"}) == float64(len(tests))
	})
	if n := len(b.Peers()); n != 0 {
		t.Errorf("%d peers", n)
	}
}

func TestBadHello(t *testing.T) {
	ca := newAuthority(t, td)
	b := start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	for name, hello := range map[string][]byte{"short": {1, 2, 3}, "version 0": make([]byte, helloSize)} {
		qc, err := rawTransport(t).Dial(t.Context(), net.UDPAddrFromAddrPort(b.Addr()), rawConf(b, ca.svid(t, "/node/a", time.Hour), ProtoNode), b.quicConfig())
		if err != nil {
			t.Fatal(err)
		}
		s, err := qc.OpenUniStream()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Write(hello)
		_ = s.Close()
		if _, err := readHello(t.Context(), qc); !errors.Is(err, ErrPeerRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(b.events()) != 0 {
		t.Errorf("reported: %v", b.events())
	}
}

// TestHandshakeFloodBounded: handshakes that begin and stall hold a bounded
// number of places, and from a forged address hardly any.
func TestHandshakeFloodBounded(t *testing.T) {
	ca := newAuthority(t, td)
	b := start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	conf := rawConf(b, ca.svid(t, "/node/x", time.Hour), ProtoNode)
	release := make(chan struct{})
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		<-release // stalls in the middle of its handshake
		return nil, errors.New("released")
	}
	inFlight := func() int {
		b.gate.mu.Lock()
		defer b.gate.mu.Unlock()
		return b.gate.all
	}
	tr := rawTransport(t)
	var refused atomic.Int32
	var flood sync.WaitGroup
	for range 3 * maxHandshakesAddr {
		flood.Go(func() {
			if _, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(b.Addr()), conf, b.quicConfig()); errors.Is(explain(err), ErrPeerRefused) {
				refused.Add(1)
			}
		})
	}
	eventually(t, "the flood is refused", func() bool {
		if n := inFlight(); n > maxHandshakesAddr {
			t.Fatalf("%d handshakes in flight, want at most %d", n, maxHandshakesAddr)
		}
		return refused.Load() > maxHandshakesAddr
	})
	close(release)
	flood.Wait()
	eventually(t, "places come back and addresses are forgotten", func() bool {
		b.gate.mu.Lock()
		defer b.gate.mu.Unlock()
		return b.gate.all == 0 && len(b.gate.from) == 0
	})
	a := start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	a.mustDial(b)
}

func TestGate(t *testing.T) {
	var g gate
	victim := net.UDPAddrFromAddrPort(loopback(1))
	for range validateFromAddr {
		if g.suspicious(victim) {
			t.Fatal("validated too early")
		}
		if err := g.enter(source(victim)); err != nil {
			t.Fatal(err)
		}
	}
	if !g.suspicious(victim) {
		t.Error("an address with many handshakes is not validated")
	}
	other := &net.UDPAddr{IP: net.ParseIP("2001:db8::1")}
	if g.suspicious(other) {
		t.Error("another address pays for it")
	}
	if a, b := source(other), source(&net.UDPAddr{IP: net.ParseIP("2001:db8::ffff")}); a != b {
		t.Errorf("one /64 is two sources: %v, %v", a, b)
	}
	if a, b := source(victim), source(&net.UDPAddr{IP: net.ParseIP("::ffff:127.0.0.1")}); a != b {
		t.Errorf("mapped IPv4 is another source: %v, %v", a, b)
	}
}
