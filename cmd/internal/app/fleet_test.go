package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// fleet is a region of nodes that run links, gossip and serf as the product does, over
// one simulated network with 1 ms from each to each.
type fleet struct {
	t     *testing.T
	net   *ether
	terms replica.Terms // of every session
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	nodes []*fleetNode

	mu    sync.Mutex
	feeds map[spiffeid.ID]feed.EpochKey
	apart func(a, b netip.AddrPort) bool
	keeps func(from, to, origin spiffeid.ID) bool // what a node keeps from another
}

type fleetNode struct {
	id      spiffeid.ID
	addr    netip.AddrPort
	path    string            // of its store
	key     *ecdsa.PrivateKey // of its SVID and its feed
	leaf    *x509.Certificate
	link    *link.Link
	replica *replica.Replica
	peering *peering
	serf    *membership
	dir     *directory
	reg     *prometheus.Registry
	stop    func()
}

func certify(t *testing.T, tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func leafKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newFleet(t *testing.T, size int) *fleet {
	return newFleetOver(t, size, &ether{latency: time.Millisecond}, replica.Terms{})
}

func newFleetOver(t *testing.T, size int, over *ether, terms replica.Terms) *fleet {
	t.Helper()
	f := &fleet{t: t, net: over, terms: terms, key: leafKey(t), feeds: map[spiffeid.ID]feed.EpochKey{}}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: east.Name()}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	f.ca = certify(t, tmpl, tmpl, f.key, f.key)
	conns := make([]net.PacketConn, size)
	for i := range conns {
		conns[i] = f.net.port(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)}), 7946))
	}
	for i, conn := range conns {
		f.nodes = append(f.nodes, f.start(i, conn))
	}
	return f
}

// epochKey reads back what start made for a certificate: its origin.
func (f *fleet) epochKey(der []byte) (feed.EpochKey, error) {
	id, err := spiffeid.FromString(string(der))
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.feeds[id], err
}

func (f *fleet) start(i int, conn net.PacketConn) *fleetNode {
	t := f.t
	t.Helper()
	n := &fleetNode{
		id: numbered(i), addr: netip.MustParseAddrPort(conn.LocalAddr().String()),
		path: filepath.Join(t.TempDir(), "store.db"), key: leafKey(t),
	}
	n.leaf = certify(t, &x509.Certificate{
		SerialNumber: big.NewInt(int64(i) + 2), URIs: []*url.URL{n.id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}, f.ca, n.key, f.key)
	f.mu.Lock()
	f.feeds[n.id] = feed.EpochKey{
		Origin: n.id, Epoch: 1, Key: &n.key.PublicKey, Class: "node", NotAfter: time.Now().Add(24 * time.Hour), Cert: []byte(n.id.String()),
	}
	f.mu.Unlock()
	f.run(n, conn)
	value, err := statement.Marshal(nodeRecord{Address: n.addr.String(), Region: "east"})
	if err != nil {
		t.Fatal(err)
	}
	n.put(t, feed.KindNode, nodeName, value)
	return n
}

// run starts a node's process, with what it has on disk.
func (f *fleet) run(n *fleetNode, conn net.PacketConn) {
	t := f.t
	t.Helper()
	st := openStore(t, n.path)
	log := slog.New(slog.DiscardHandler)
	bundle := x509bundle.FromX509Authorities(east, []*x509.Certificate{f.ca})
	epochCert, key := []byte(n.id.String()), n.key
	n.reg = prometheus.NewRegistry()

	set, err := trust.NewSet([]*ecdsa.PublicKey{&f.key.PublicKey}, 1)
	if err != nil {
		t.Fatal(err)
	}
	n.dir = newDirectory(n.id, set, nil, log)
	standing := testStandings(st)
	if n.replica, err = replica.Open(replica.Config{
		Self: n.id, Store: st, Keys: f.epochKey, Kinds: kinds(), TTL: recordTTL, Log: log, Metrics: n.reg,
		Apply: func(feed.Record, feed.Op) error { return nil },
		Terms: func(spiffeid.ID) replica.Terms { return f.terms },
		Carry: func(peer, origin spiffeid.ID) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return origin.MemberOf(east) && (f.keeps == nil || !f.keeps(n.id, peer, origin))
		},
		Roster: func() (out []replica.Member) { return (&App{dir: n.dir}).members() },
	}); err != nil {
		t.Fatal(err)
	}
	if n.link, err = link.Listen(link.Config{
		SVID: &x509svid.SVID{ID: n.id, Certificates: []*x509.Certificate{n.leaf}, PrivateKey: key}, Bundles: bundle, PacketConn: conn, Metrics: n.reg,
		Authorize: func(id spiffeid.ID) error { return n.peering.welcomes(id) },
		Refuse: func(to netip.AddrPort) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.apart != nil && f.apart(n.addr, to)
		},
	}); err != nil {
		t.Fatal(err)
	}
	n.peering = &peering{
		self: n.id, link: n.link, replica: n.replica, standing: standing, dir: n.dir, log: log, metrics: n.reg,
		seeds: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:7946")}, shutOut: func() {},
	}
	if err := n.peering.start(); err != nil {
		t.Fatal(err)
	}
	n.serf = &membership{
		self: n.id, link: n.link, reach: n.peering.reach, dir: n.dir, log: log, reg: n.reg,
		packets: make(chan roster.Datagram, serfQueue), inbound: make(chan roster.InboundStream),
		hints: map[spiffeid.ID]roster.Hint{}, aside: map[spiffeid.ID][][]byte{},
		cert: func() []byte { return epochCert },
		record: func() ([]byte, error) {
			return roster.SignRecord(key, roster.Record{ID: n.id, Addr: n.addr, Epoch: 1, Cert: sha256.Sum256(epochCert)})
		},
		keys: func(id spiffeid.ID, _ uint64, cert [32]byte) (*ecdsa.PublicKey, error) {
			known, err := f.epochKey([]byte(id.String()))
			if err != nil || cert != sha256.Sum256(known.Cert) {
				return nil, roster.ErrUnknownKey
			}
			return known.Key, nil
		},
	}
	n.serf.handle()

	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for _, run := range []func(context.Context) error{
		n.replica.Run, n.link.Run, n.peering.run, n.serf.run,
		func(ctx context.Context) error { return n.dir.follow(ctx, n.replica, func(replica.Change) {}) },
	} {
		wait.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", n.id, err)
			}
		})
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		_ = n.link.Close()
		wait.Wait()
		_ = st.Close()
	})
	if err := n.replica.SetIdentity(t.Context(), replica.Identity{Signer: key, Cert: epochCert}); err != nil {
		t.Fatal(err)
	}
}

func (n *fleetNode) put(t *testing.T, kind, name string, value []byte) {
	t.Helper()
	op := feed.Op{Key: feed.KeyOf(n.id, kind, name), Action: feed.Put, Value: value, Scope: feed.ScopeRegion}
	if _, err := n.replica.Put(t.Context(), op); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) close() {
	for _, n := range f.nodes {
		n.stop()
	}
	time.Sleep(time.Minute) // memberlist waits for the answers to its last probes
}

func (f *fleet) divide(apart func(a, b netip.AddrPort) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apart = apart
}

func (f *fleet) withhold(keeps func(from, to, origin spiffeid.ID) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keeps = keeps
}

// agree waits until nodes hold the same frontier, which it returns the time of.
func agree(t *testing.T, nodes []*fleetNode, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		roots := map[[32]byte]int{}
		for _, n := range nodes {
			_, root, err := n.replica.Frontier(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			roots[root]++
		}
		if len(roots) == 1 {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("%d different frontiers after %s", len(roots), within)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// degrees are the numbers of links that nodes have.
func degrees(nodes []*fleetNode) (mean float64, most int) {
	sum := 0
	for _, n := range nodes {
		have := len(n.link.Peers())
		sum, most = sum+have, max(most, have)
	}
	return float64(sum) / float64(len(nodes)), most
}

func (n *fleetNode) shows(key string) bool {
	_, ok := n.replica.Get(key)
	return ok
}

// spread writes at one node and returns how long it takes until all others show it.
func (f *fleet) spread(from *fleetNode, nodes []*fleetNode, name string) time.Duration {
	f.t.Helper()
	return f.spreadWithin(10*time.Second, from, nodes, name)
}

func (f *fleet) spreadWithin(limit time.Duration, from *fleetNode, nodes []*fleetNode, name string) time.Duration {
	f.t.Helper()
	value, err := statement.Marshal(serviceRecord{Workload: "spiffe://east.dev.example/workload/w"})
	if err != nil {
		f.t.Fatal(err)
	}
	began := time.Now()
	from.put(f.t, feed.KindService, name, value)
	key := feed.KeyOf(from.id, feed.KindService, name)
	for time.Since(began) < limit {
		synctest.Wait()
		if !slices.ContainsFunc(nodes, func(n *fleetNode) bool { return !n.shows(key) }) {
			return time.Since(began)
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatalf("%s of %s does not reach everybody", name, from.id)
	return 0
}

// A region that is not small keeps far fewer links than one to everybody, and everything that
// counts on sessions goes on: convergence, hints, a partition and its heal, a leave.
func TestSparseRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 26
		f := newFleet(t, size)
		defer f.close()
		time.Sleep(40 * time.Second)
		took := agree(t, f.nodes, 10*time.Second)
		mean, most := degrees(f.nodes)
		t.Logf("%d nodes: %.1f links on average, %d at most; %s until agreed", size, mean, most, took)
		if mean > 20 {
			t.Errorf("%.1f links on average, %d at most", mean, most)
		}
		if got := f.nodes[0].dir.size(); got != size-1 {
			t.Errorf("the roster names %d", got)
		}
		worst := time.Duration(0)
		for i := range 4 {
			worst = max(worst, f.spread(f.nodes[i*6], f.nodes, fmt.Sprint("small", i)))
		}
		t.Logf("last node after %s", worst)
		if worst > 100*time.Millisecond {
			t.Errorf("the last node shows a write after %s", worst)
		}

		// Two halves that hear nothing of each other, for three minutes.
		f.divide(func(a, b netip.AddrPort) bool { return (a.Addr().As4()[3]^b.Addr().As4()[3])&1 == 1 })
		time.Sleep(time.Minute)
		var odd, even []*fleetNode
		for i, n := range f.nodes {
			if i%2 == 0 {
				even = append(even, n)
			} else {
				odd = append(odd, n)
			}
		}
		for i := range 5 {
			f.spread(odd[i], odd, fmt.Sprint("odd", i))
			f.spread(even[i], even, fmt.Sprint("even", i))
		}
		agree(t, odd, 10*time.Second)
		agree(t, even, 10*time.Second)
		time.Sleep(2 * time.Minute)
		if _, ok := odd[0].replica.Get(feed.KeyOf(even[0].id, feed.KindService, "even0")); ok {
			t.Error("the halves are not apart")
		}
		f.divide(nil)
		healed := agree(t, f.nodes, time.Minute)
		t.Logf("healed after %s", healed)
		if healed > 30*time.Second {
			t.Errorf("the halves agree only %s after the heal", healed)
		}
		missNothing(t, f.nodes)

		// One goes for good: nobody misses it, and its place in the meshes is filled.
		f.nodes[7].stop()
		rest := slices.Delete(slices.Clone(f.nodes), 7, 8)
		time.Sleep(90 * time.Second)
		if took := f.spread(rest[3], rest, "after"); took > 100*time.Millisecond {
			t.Errorf("the last node shows a write after %s", took)
		}
		failed := 0
		for _, n := range rest {
			if n.serf.hint(numbered(7)) == string(roster.Failed) {
				failed++
			}
		}
		mean, most = degrees(rest)
		t.Logf("after one has gone: %.1f links on average, %d at most; %d of %d have the hint that it failed", mean, most, failed, len(rest))
		if failed < len(rest)*9/10 {
			t.Errorf("only %d of %d have the hint that it failed", failed, len(rest))
		}
	})
}

// A small region is linked as it always was: everybody to everybody, one session each.
func TestSmallRegionIsFullyLinked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8
		f := newFleet(t, size)
		defer f.close()
		time.Sleep(20 * time.Second)
		agree(t, f.nodes, 5*time.Second)
		for _, n := range f.nodes {
			if got := len(n.link.Peers()); got != size-1 {
				t.Errorf("%s has %d links", n.id, got)
			}
			n.peering.mu.Lock()
			for key := range n.peering.sessions {
				if key.mine != (n.id.String() < key.peer.String()) {
					t.Errorf("the session of %s and %s was opened by the larger", n.id, key.peer)
				}
			}
			if len(n.peering.sessions) != size-1 {
				t.Errorf("%s has %d sessions", n.id, len(n.peering.sessions))
			}
			n.peering.mu.Unlock()
		}
	})
}

// Who needs a link that is not kept gets one, and it goes when nobody uses it.
func TestLinkOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, fullMesh+4)
		defer f.close()
		time.Sleep(30 * time.Second)
		var n *fleetNode
		var far spiffeid.ID
		for _, other := range f.nodes { // by chance one or the other has a link to everybody
			for _, m := range other.dir.neighbours() {
				if _, live := other.link.Conn(m.id); !live {
					n, far = other, m.id
				}
			}
		}
		if far.IsZero() {
			t.Fatal("there are links between all")
		}
		conn, err := n.peering.reach(t.Context(), far)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := n.peering.reach(t.Context(), far); err != nil || again != conn {
			t.Errorf("another link, or %v", err)
		}
		if _, err := n.peering.reach(t.Context(), numbered(99)); !errors.Is(err, link.ErrUnreachable) {
			t.Errorf("a node that nobody knows: %v", err)
		}
	})
}

// Over a link of 64 kbit/s that catching up with state saturates, what an authority signed
// passes by: it waits for what is on its way, which is two seconds of the link's own queue
// or, with a budget below what the link takes, next to nothing.
func TestUrgentPassesBulk(t *testing.T) {
	for budget, most := range map[uint64]time.Duration{0: 3 * time.Second, 6000: time.Second} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) { urgentPassesBulk(t, budget, most) })
	}
}

func urgentPassesBulk(t *testing.T, budget uint64, most time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOver(t, 3, &ether{latency: 20 * time.Millisecond, rate: 8000, queue: 16 << 10}, replica.Terms{Budget: budget})
		defer f.close()
		a, b, c := f.nodes[0], f.nodes[1], f.nodes[2]
		time.Sleep(20 * time.Second)
		agree(t, f.nodes, 10*time.Second)
		f.divide(func(from, to netip.AddrPort) bool { return from == b.addr || to == b.addr })
		time.Sleep(30 * time.Second)
		value, err := statement.Marshal(serviceRecord{Workload: "spiffe://east.dev.example/workload/" + strings.Repeat("w", 3600)})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			a.put(t, feed.KindService, fmt.Sprint("bulk", i), value)
			time.Sleep(300 * time.Millisecond)
		}
		f.divide(func(from, to netip.AddrPort) bool {
			return from == b.addr && to == c.addr || from == c.addr && to == b.addr
		})
		time.Sleep(20 * time.Second)
		urgent := func(name string) time.Duration {
			c.put(t, feed.KindAuthority, name, []byte("x"))
			key, began := feed.KeyOf(c.id, feed.KindAuthority, name), time.Now()
			for !b.shows(key) && time.Since(began) < time.Minute {
				time.Sleep(5 * time.Millisecond)
			}
			return time.Since(began)
		}
		urgent("first") // b lacks what c wrote meanwhile, and that is bulk
		var took []time.Duration
		for i := range 10 {
			took = append(took, urgent(fmt.Sprint("urgent", i)))
			time.Sleep(500 * time.Millisecond)
		}
		lacks := func() (missing int) {
			for i := range 200 {
				if !b.shows(feed.KeyOf(a.id, feed.KindService, fmt.Sprint("bulk", i))) {
					missing++
				}
			}
			return missing
		}
		missing := lacks()
		slices.Sort(took)
		t.Logf("it comes after %s (median of %d), %s at most; %d of 200 others have not", took[len(took)/2], len(took), took[len(took)-1], missing)
		if missing == 0 {
			t.Error("nothing was in its way")
		}
		if took[len(took)/2] > most {
			t.Errorf("half of it comes later than %s", took[len(took)/2])
		}
		transfer := time.Duration(missing*(len(value)+400)) * time.Second / 6000
		for began := time.Now(); lacks() > 0; time.Sleep(time.Second) {
			if time.Since(began) > 3*transfer/2 {
				t.Fatalf("%d others have not come after %s, which is half as much again as they need", lacks(), time.Since(began))
			}
		}
	})
}
