package tunnel

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/mesh/route"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// eventually polls: what is waited for happens in other goroutines and sockets.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

// authority is the CA of a trust domain.
type authority struct {
	td   spiffeid.TrustDomain
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

var serial atomic.Int64

func newAuthority(td string) *authority {
	a := &authority{td: spiffeid.RequireTrustDomainFromString(td), key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: td},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{a.td.ID().URL()},
	}
	a.cert = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key))))
	return a
}

func (a *authority) svid(path string, life time.Duration) *x509svid.SVID {
	id := spiffeid.RequireFromPath(a.td, path)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), URIs: []*url.URL{id.URL()},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key))))
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// counting counts the signatures of a key.
type counting struct {
	crypto.Signer
	n *atomic.Int64
}

func (c counting) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	c.n.Add(1)
	return c.Signer.Sign(r, digest, opts)
}

// fleet is the trust bundles, services and policy that all nodes of a test share.
type fleet struct {
	t       testing.TB
	ca      map[string]*authority
	bundles *x509bundle.Set

	mu      sync.Mutex // guards all below
	allowed []spiffeid.ID
	owners  []route.Owner
	unnamed bool                 // nobody knows the service
	deny    string               // the action that policy denies
	refuse  map[spiffeid.ID]bool // nodes
	inputs  []policy.Input
}

func newFleet(t testing.TB, tds ...string) *fleet {
	f := &fleet{t: t, ca: map[string]*authority{}, bundles: x509bundle.NewSet(), refuse: map[spiffeid.ID]bool{}}
	for _, td := range tds {
		f.ca[td] = newAuthority(td)
		f.bundles.Add(x509bundle.FromX509Authorities(f.ca[td].td, []*x509.Certificate{f.ca[td].cert}))
	}
	return f
}

func (f *fleet) set(fn func()) { f.mu.Lock(); defer f.mu.Unlock(); fn() }

func (f *fleet) node(id spiffeid.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse[id] {
		return errors.New("quarantined")
	}
	return nil
}

func (f *fleet) peer(id, node spiffeid.ID) policy.Peer {
	n := must(identity.ParseNode(node))
	return policy.Peer{SPIFFEID: id.String(), TrustDomain: id.TrustDomain().Name(), Node: n.Name, Zone: n.Zone}
}

func (f *fleet) decide(_ context.Context, in policy.Input) policy.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inputs = append(f.inputs, in)
	if in.Action.Name == f.deny {
		return policy.Decision{ID: "d-" + in.Action.Name, Rule: "rule-" + in.Action.Name, Reason: "the test says so"}
	}
	return policy.Decision{Allow: true, ID: "a-" + in.Action.Name}
}

func (f *fleet) resolve(service string) (Service, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if service != shop || f.unnamed {
		return Service{}, errors.New("unknown")
	}
	return Service{Service: policy.Service{Name: service, Region: "east", Protocol: "tcp"}, Allowed: f.allowed, Owners: f.owners}, nil
}

const shop = "shop.east.mesh"

// testNode is a node with a link and a proxy.
type testNode struct {
	*Proxy
	f        *fleet
	link     *link.Link
	svid     *x509svid.SVID
	signed   atomic.Int64
	workload atomic.Pointer[x509svid.SVID] // which every local process is; nil: none
	serves   atomic.Pointer[Target]
	refusals chan Refusal
	stop     func()
}

// start runs a node on which every process is the workload at path.
func (f *fleet) start(td, node, workload string, change func(*Config)) *testNode {
	f.t.Helper()
	n := &testNode{f: f, svid: f.ca[td].svid(node, time.Hour), refusals: make(chan Refusal, 64)}
	n.svid.PrivateKey = counting{n.svid.PrivateKey, &n.signed}
	n.workload.Store(f.ca[td].svid(workload, time.Hour))
	var err error
	n.link, err = link.Listen(link.Config{Listen: "127.0.0.1:0", SVID: n.svid, Bundles: f.bundles, Authorize: f.node})
	if err != nil {
		f.t.Fatal(err)
	}
	cfg := Config{
		Link: n.link, Bundles: f.bundles, NodeSVID: n.svid, Region: strings.Split(td, ".")[0],
		Listeners: []Listener{{netip.MustParseAddrPort("127.0.0.1:0"), shop}},
		Workload: func(*caller.Process) (*x509svid.SVID, error) {
			if svid := n.workload.Load(); svid != nil {
				return svid, nil
			}
			return nil, errors.New("no entry")
		},
		Resolve: f.resolve,
		Serve: func(service string) (Target, error) {
			if t := n.serves.Load(); t != nil && t.Name == service {
				return *t, nil
			}
			return Target{}, errors.New("not served here")
		},
		Node: f.node, Peer: f.peer, Decide: f.decide,
		Refused: func(r Refusal) { n.refusals <- r },
		Drain:   10 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	if n.Proxy, err = Listen(cfg); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	linkCtx, linkCancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.Run(ctx) })
	var linkWG sync.WaitGroup
	linkWG.Go(func() { n.link.Run(linkCtx) })
	n.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	f.t.Cleanup(func() {
		n.Proxy.Close()
		n.stop()
		linkCancel()
		linkWG.Wait()
		n.link.Close()
	})
	return n
}

// serve makes the node an owner of the shop at a local address.
func (n *testNode) serve(addr netip.AddrPort) {
	svid := n.workload.Load()
	n.serves.Store(&Target{Service: policy.Service{Name: shop, Region: "east"}, Addr: addr, SVID: svid})
	n.f.set(func() {
		n.f.allowed = append(n.f.allowed, svid.ID)
		id := must(identity.ParseNode(n.svid.ID))
		n.f.owners = append(n.f.owners, route.Owner{
			Place:    route.Place{Node: n.svid.ID, Zone: id.Zone, Region: n.cfg.Region},
			Workload: svid.ID, Addr: n.link.Addr(), Health: route.Healthy,
			RTT: time.Duration(1<<len(n.f.owners)) * time.Millisecond, // in the order of serving
		})
	})
}

func (n *testNode) refusal() Refusal {
	n.f.t.Helper()
	select {
	case r := <-n.refusals:
		return r
	case <-time.After(10 * time.Second):
		n.f.t.Fatal("no refusal")
		return Refusal{}
	}
}

// target is a local TCP server; each connection is run by serve.
func target(t testing.TB, serve func(*net.TCPConn)) netip.AddrPort {
	l := must(net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// echo answers with a name and then with what it gets.
func echo(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		fmt.Fprintln(c, name)
		io.Copy(c, c)
		c.CloseWrite()
	}
}

// try connects to the listener; a refusal may be so quick that this fails.
func (n *testNode) try(t testing.TB) (*net.TCPConn, error) {
	c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(n.Addrs()[0]))
	if err == nil {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c, err
}

func (n *testNode) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	return must(n.try(t))
}

// wantRefused connects, sends something and wants a reset.
func (n *testNode) wantRefused(t testing.TB) {
	t.Helper()
	c, err := n.try(t)
	if err == nil {
		// A reset that came before the write is told to the write, and to nobody after it.
		if _, err = c.Write([]byte("secret")); err == nil {
			wantReset(t, c)
			return
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
}

// talk sends a message, half-closes and returns all that comes back.
func talk(c *net.TCPConn, msg string) (string, error) {
	if _, err := io.WriteString(c, msg); err != nil {
		return "", err
	}
	c.CloseWrite()
	b, err := io.ReadAll(c)
	return string(b), err
}

func wantTalk(t testing.TB, c *net.TCPConn, name string) {
	t.Helper()
	if got, err := talk(c, "hello"); got != name+"\nhello" || err != nil {
		t.Fatalf("got %q, %v; want an answer of %s", got, err, name)
	}
}

func wantReset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if b, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("got %q, %v; want a reset", b, err)
	}
}

const (
	east = "east.dev.example"
	west = "west.dev.example"
)

// pair is a client's node and the shop's.
func pair(t testing.TB) (f *fleet, a, b *testNode) {
	f = newFleet(t, east, west)
	a = f.start(east, "/node/a", "/workload/client", nil)
	b = f.start(east, "/node/b", "/workload/shop", nil)
	return f, a, b
}
