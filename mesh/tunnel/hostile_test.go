package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// hostile dials b's tunnels itself, with a workload SVID that is good.
func hostile(t *testing.T, a, b *testNode) (*link.Tunnel, binding) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tun, err := a.link.DialTunnel(ctx, b.link.Addr(), a.workload.Load(), shop, func(spiffeid.ID) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close("done") })
	return tun, binding{must(tun.Export(exporterLabel, nil)), tun.Local[0], tun.Remote[0]}
}

// A dialler that does not prove its node gets nothing, whatever it sends.
func TestHostileDialler(t *testing.T) {
	raw := func(b []byte) func(*fleet, *testNode, binding) []byte {
		return func(*fleet, *testNode, binding) []byte { return b }
	}
	frame := func(v nodeFrame) []byte {
		var out bytes.Buffer
		must(0, writeFrame(&out, v, MaxNodeFrame))
		return out.Bytes()
	}
	for _, tc := range []struct {
		name string
		send func(f *fleet, a *testNode, b binding) []byte
	}{
		{"nothing", raw([]byte{})},
		{"garbage", raw([]byte("GET / HTTP/1.1\r\n\r\n"))},
		{"too large", raw(append([]byte{0xff, 0xff}, make([]byte, 70<<10)...))},
		{"an open message", func(*fleet, *testNode, binding) []byte {
			var out bytes.Buffer
			must(0, writeFrame(&out, opening{Service: shop}, MaxFrame))
			return out.Bytes()
		}},
		{"the acceptor's role", func(f *fleet, a *testNode, b binding) []byte { return frame(must(b.sign(acceptor, a.svid))) }},
		{"another connection", func(f *fleet, a *testNode, b binding) []byte {
			b.exporter[0]++
			return frame(must(b.sign(dialler, a.svid)))
		}},
		{"another workload", func(f *fleet, a *testNode, b binding) []byte {
			b.dialler = f.ca[east].svid("/workload/other", time.Hour).Certificates[0]
			return frame(must(b.sign(dialler, a.svid)))
		}},
		{"another node's chain", func(f *fleet, a *testNode, b binding) []byte {
			v := must(b.sign(dialler, a.svid))
			v.Chain = [][]byte{f.ca[east].svid("/node/c", time.Hour).Certificates[0].Raw}
			return frame(v)
		}},
		{"a workload as node", func(f *fleet, a *testNode, b binding) []byte {
			return frame(must(b.sign(dialler, f.ca[east].svid("/workload/client", time.Hour))))
		}},
		{"a node of another region", func(f *fleet, a *testNode, b binding) []byte {
			return frame(must(b.sign(dialler, f.ca[west].svid("/node/a", time.Hour))))
		}},
		{"a node nobody vouches for", func(f *fleet, a *testNode, b binding) []byte {
			return frame(must(b.sign(dialler, newAuthority(east).svid("/node/a", time.Hour))))
		}},
		{"an expired node", func(f *fleet, a *testNode, b binding) []byte {
			return frame(must(b.sign(dialler, f.ca[east].svid("/node/a", -time.Second))))
		}},
		{"a quarantined node", func(f *fleet, a *testNode, b binding) []byte {
			f.set(func() { f.refuse[a.svid.ID] = true })
			return frame(must(b.sign(dialler, a.svid)))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFleet(t, east, west)
			a := f.start(east, "/node/a", "/workload/client", nil)
			b := f.start(east, "/node/b", "/workload/shop", func(c *Config) {
				c.Endorsed = func(node spiffeid.ID, _ *x509.Certificate, _ []byte) {
					if !strings.HasPrefix(tc.name, "a quarantined") {
						t.Errorf("an unproven %s was taken for itself", node)
					}
				}
			})
			reached := make(chan bool, 1)
			b.serve(target(t, func(*net.TCPConn) { reached <- true }))
			tun, bind := hostile(t, a, b)
			first := must(tun.OpenStream(t.Context()))
			first.Write(tc.send(f, a, bind))
			first.CloseWrite()
			if second, err := tun.OpenStream(t.Context()); err == nil { // it may be over already
				_ = writeFrame(second, opening{Service: shop}, MaxFrame)
				_, _ = second.Write([]byte("secret"))
				if got, err := io.ReadAll(second); err == nil || len(got) > 0 {
					t.Errorf("got %q, %v; want the end of the tunnel", got, err)
				}
			}
			r := b.refusal()
			if !errors.Is(r.Cause, ErrNodeStatement) && !errors.Is(r.Cause, ErrNodeRefused) || r.Side != Destination {
				t.Errorf("refusal %+v", r)
			}
			if n := b.signed.Load(); n != 0 {
				t.Error("the node key signed for a stranger")
			}
			select {
			case <-reached:
				t.Error("the target was reached")
			default:
			}
		})
	}
}

// With a good node statement, a bad stream ends alone.
func TestHostileStreams(t *testing.T) {
	_, a, b := pair(t)
	b.serve(target(t, echo("b")))
	tun, bind := hostile(t, a, b)
	st := must(tun.OpenStream(t.Context()))
	must(0, writeFrame(st, must(bind.sign(dialler, a.svid)), MaxNodeFrame))
	if _, err := readNode(st, bind, acceptor); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{
		{0, 0}, {0xff, 0xff, 1}, []byte("\x00\x01\xa0"),
		append([]byte{0, byte(len("x"))}, 'x'),
	} {
		st := must(tun.OpenStream(t.Context()))
		st.Write(bad)
		st.CloseWrite()
		if got, err := io.ReadAll(st); err == nil || len(got) > 0 {
			t.Errorf("%x: got %q, %v; want a reset", bad, got, err)
		}
		if r := b.refusal(); !errors.Is(r.Cause, ErrFrame) {
			t.Errorf("%x: %v", bad, r.Cause)
		}
	}
	for service, want := range map[string]code{shop: codeOK, "other.east.mesh": codeNoTarget} {
		st := must(tun.OpenStream(t.Context()))
		must(0, writeFrame(st, opening{Service: service}, MaxFrame))
		if s := must(parseStatus(must(readFrame(st, MaxFrame)))); s.Code != want {
			t.Errorf("%s: %+v, want code %d", service, s, want)
		}
		st.Reset()
	}
}

// An acceptor that does not prove the chosen node gets no byte.
func TestHostileAcceptor(t *testing.T) {
	for name, sign := range map[string]func(f *fleet, b *testNode, bind binding) (nodeFrame, error){
		"reflects the dialler's role": func(f *fleet, b *testNode, bind binding) (nodeFrame, error) {
			return bind.sign(dialler, b.svid)
		},
		"is another node": func(f *fleet, b *testNode, bind binding) (nodeFrame, error) {
			return bind.sign(acceptor, f.ca[east].svid("/node/c", time.Hour))
		},
		"says nothing useful": func(*fleet, *testNode, binding) (nodeFrame, error) {
			return nodeFrame{Chain: [][]byte{}, Statement: []byte("x")}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, b := pair(t)
			b.serve(target(t, echo("b")))
			streams := make(chan bool, 8)
			b.link.HandleTunnels(func(string) (*x509svid.SVID, error) { return b.workload.Load(), nil }, func(ctx context.Context, tun *link.Tunnel) {
				st, err := tun.AcceptStream(ctx)
				if err != nil {
					return
				}
				bind := binding{must(tun.Export(exporterLabel, nil)), tun.Remote[0], tun.Local[0]}
				must(0, writeFrame(st, must(sign(f, b, bind)), MaxNodeFrame))
				if _, err := tun.AcceptStream(ctx); err == nil {
					streams <- true
				}
			})
			a.wantRefused(t)
			if r := a.refusal(); !errors.Is(r.Cause, ErrNodeStatement) && !errors.Is(r.Cause, ErrNodeRefused) {
				t.Errorf("cause %v", r.Cause)
			}
			select {
			case <-streams:
				t.Error("a connection was opened")
			default:
			}
		})
	}
}

// A destination that says nonsense instead of a status refuses.
func TestHostileStatus(t *testing.T) {
	f, a, b := pair(t)
	b.serve(target(t, echo("b")))
	b.link.HandleTunnels(func(string) (*x509svid.SVID, error) { return b.workload.Load(), nil }, func(ctx context.Context, tun *link.Tunnel) {
		st, err := tun.AcceptStream(ctx)
		if err != nil {
			return
		}
		bind := binding{must(tun.Export(exporterLabel, nil)), tun.Remote[0], tun.Local[0]}
		must(0, writeFrame(st, must(bind.sign(acceptor, b.svid)), MaxNodeFrame))
		for {
			st, err := tun.AcceptStream(ctx)
			if err != nil {
				return
			}
			must(0, writeFrame(st, status{Code: codes}, MaxFrame))
		}
	})
	_ = f
	a.wantRefused(t)
	if r := a.refusal(); !errors.Is(r.Cause, ErrFrame) {
		t.Errorf("cause %v", r.Cause)
	}
}

// testBinding is the same in every process, so that fuzzing workers agree.
func testBinding() (binding, *x509svid.SVID, *x509bundle.Bundle) {
	key := must(ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32)))
	rootKey := must(ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{8}, 32)))
	id := spiffeid.RequireFromString("spiffe://east.dev.example/node/a")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{id.TrustDomain().ID().URL()}, NotBefore: at, NotAfter: at.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := must(x509.ParseCertificate(must(x509.CreateCertificate(nil, tmpl, tmpl, &rootKey.PublicKey, rootKey))))
	tmpl = &x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{id.URL()}, NotBefore: at, NotAfter: at.AddDate(1, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	node := must(x509.ParseCertificate(must(x509.CreateCertificate(nil, tmpl, root, &key.PublicKey, rootKey))))
	return binding{[32]byte{1, 2, 3}, &x509.Certificate{Raw: []byte("client")}, &x509.Certificate{Raw: []byte("shop")}},
		&x509svid.SVID{ID: id, Certificates: []*x509.Certificate{node}, PrivateKey: key},
		x509bundle.FromX509Authorities(id.TrustDomain(), []*x509.Certificate{root})
}

// What parses was signed by the node's key, and what is believed names the
// node by a certificate that the region's root signed: whatever is changed in
// either must be refused by one of the two.
func FuzzNodeStatement(f *testing.F) {
	b, node, bundle := testBinding()
	welcome := func(spiffeid.ID) error { return nil }
	at := node.Certificates[0].NotBefore.Add(time.Hour)
	workload := spiffeid.RequireFromPath(node.ID.TrustDomain(), "/workload/w")
	good := must(statement.Marshal(must(b.sign(dialler, node))))
	p := must(b.parseNode(dialler, good)) // also fills caches, whose filling would look interesting
	if err := p.check(workload, bundle, welcome, at); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(must(statement.Marshal(must(b.sign(acceptor, node)))))
	f.Add(must(statement.Marshal(nodeFrame{})))
	f.Add([]byte{0xa0})
	altered := must(b.sign(dialler, node)) // parses: who signed the certificate is for check
	altered.Chain[0] = bytes.Clone(altered.Chain[0])
	altered.Chain[0][len(altered.Chain[0])-1] ^= 1
	f.Add(must(statement.Marshal(altered)))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := b.parseNode(dialler, in)
		if err != nil {
			if !errors.Is(err, ErrNodeStatement) {
				t.Errorf("error %v", err)
			}
			return
		}
		if !node.PrivateKey.Public().(*ecdsa.PublicKey).Equal(p.chain[0].PublicKey) {
			t.Errorf("a key that did not sign: %x", p.chain[0].RawSubjectPublicKeyInfo)
		}
		if p.check(workload, bundle, welcome, at) == nil && !bytes.Equal(p.chain[0].RawTBSCertificate, node.Certificates[0].RawTBSCertificate) {
			t.Errorf("believed %s by another certificate", p.node)
		}
	})
}

func FuzzFrames(f *testing.F) {
	for _, v := range []any{opening{shop, traceparent(), "id"}, status{Code: codeDenied, Decision: "id", Rule: "r", Text: "t"}} {
		var b bytes.Buffer
		must(0, writeFrame(&b, v, MaxFrame))
		f.Add(b.Bytes())
	}
	f.Add([]byte{0, 0})
	f.Add([]byte{4, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		body, err := readFrame(bytes.NewReader(in), MaxFrame)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if o, err := parseOpening(body); err == nil {
			must(0, writeFrame(&out, o, MaxFrame))
		} else if s, err := parseStatus(body); err == nil {
			must(0, writeFrame(&out, s, MaxFrame))
		} else {
			return
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Errorf("%x parses but re-encodes as %x", in, out.Bytes())
		}
	})
}

func TestSpeaksFor(t *testing.T) {
	for _, tc := range []struct {
		node, workload string
		want           bool
	}{
		{"spiffe://east/node/a", "spiffe://east/workload/w", true},
		{"spiffe://east/zone/z/node/a", "spiffe://east/workload/w", true},
		{"spiffe://east/zone/z/node/a", "spiffe://east/zone/z/workload/w", true},
		{"spiffe://east/zone/y/node/a", "spiffe://east/zone/z/workload/w", false},
		{"spiffe://east/node/a", "spiffe://east/zone/z/workload/w", false},
		{"spiffe://west/node/a", "spiffe://east/workload/w", false},
		{"spiffe://east/workload/a", "spiffe://east/workload/w", false},
	} {
		err := speaksFor(spiffeid.RequireFromString(tc.node), spiffeid.RequireFromString(tc.workload))
		if (err == nil) != tc.want {
			t.Errorf("%s for %s: %v", tc.node, tc.workload, err)
		}
	}
}

func TestStatusFits(t *testing.T) {
	var b bytes.Buffer
	long := strings.Repeat("é", 4000)
	s := status{Code: codeDenied, Decision: clean(long, 64), Rule: clean(long, 128), Text: clean(long, 512)}
	if err := writeFrame(&b, s, MaxFrame); err != nil {
		t.Fatal(err)
	}
	if got := must(parseStatus(must(readFrame(&b, MaxFrame)))); got != s {
		t.Errorf("got %+v", got)
	}
}

// A node statement with the longest chain that the parser takes fits its frame.
func TestNodeFrameFits(t *testing.T) {
	b, node, _ := testBinding()
	for len(node.Certificates) < maxChain {
		node.Certificates = append(node.Certificates, node.Certificates[0])
	}
	var out bytes.Buffer
	if err := writeFrame(&out, must(b.sign(dialler, node)), MaxNodeFrame); err != nil {
		t.Fatal(err)
	}
	if p := must(readNode(&out, b, dialler)); len(p.chain) != maxChain {
		t.Errorf("%d certificates", len(p.chain))
	}
}
