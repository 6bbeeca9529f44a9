package replica

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func nodeID(i int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/n%d", i))
}

// cert is a stand-in for an epoch certificate that keyFunc reads back.
type cert struct {
	Origin   string
	Epoch    uint64
	Attested bool
	To       int64
	Key      []byte
}

func keyFunc(der []byte) (feed.EpochKey, error) {
	var c cert
	if err := json.Unmarshal(der, &c); err != nil {
		return feed.EpochKey{}, err
	}
	pub, err := x509.ParsePKIXPublicKey(c.Key)
	if err != nil {
		return feed.EpochKey{}, err
	}
	origin, err := spiffeid.FromString(c.Origin)
	return feed.EpochKey{
		Origin: origin, Epoch: c.Epoch, Key: pub.(*ecdsa.PublicKey), Class: "node", Attested: c.Attested,
		NotAfter: time.Unix(c.To, 0), Cert: der,
	}, err
}

// checkpointFunc reads what testCheckpoint wrote back.
func checkpointFunc(signed []byte, _ spiffeid.TrustDomain) (c feed.Checkpoint, err error) {
	return c, json.Unmarshal(signed, &c)
}

func testCheckpoint(t *testing.T, heads feed.Frontier) []byte {
	t.Helper()
	b, err := json.Marshal(feed.Checkpoint{Root: heads.Root(), Feeds: heads.Size(), At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newIdentity(t testing.TB, origin spiffeid.ID, epoch uint64) Identity {
	t.Helper()
	return newIdentityFor(t, origin, epoch, 7*24*time.Hour)
}

func newIdentityFor(t testing.TB, origin spiffeid.ID, epoch uint64, term time.Duration) Identity {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(&priv.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := json.Marshal(cert{origin.String(), epoch, true, time.Now().Add(term).Unix(), pub})
	if err != nil {
		t.Fatal(err)
	}
	return Identity{Signer: priv, Cert: der}
}

// node is a replica with its disk, and what its callbacks told.
type node struct {
	t    *testing.T
	id   spiffeid.ID
	dir  string
	self Identity
	deny func(feed.Record, feed.Op) error
	over func(*Config)

	*Replica
	store *store.Store
	stop  func()

	mu       sync.Mutex
	findings []feed.Finding
	rewound  []uint64
}

func newNode(t *testing.T, i int) *node {
	t.Helper()
	return newNodeWith(t, i, nil)
}

func newNodeWith(t *testing.T, i int, over func(*Config)) *node {
	t.Helper()
	n := &node{t: t, id: nodeID(i), dir: t.TempDir(), self: newIdentity(t, nodeID(i), 1), over: over}
	n.start()
	return n
}

func (n *node) path() string { return filepath.Join(n.dir, "store.db") }

func (n *node) start() {
	n.t.Helper()
	s, err := store.Open(n.path())
	if err != nil {
		n.t.Fatal(err)
	}
	n.startOn(s)
	if err := n.SetIdentity(n.t.Context(), n.self); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) startOn(s *store.Store) {
	n.t.Helper()
	n.store = s
	cfg := Config{
		Self: n.id, Store: s, Keys: keyFunc, Checkpoints: checkpointFunc,
		Apply: func(rec feed.Record, op feed.Op) error {
			if n.deny != nil {
				return n.deny(rec, op)
			}
			return nil
		},
		OnFinding: func(_ []byte, f feed.Finding) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.findings = append(n.findings, f)
		},
		OnRewound: func(epoch, _ uint64) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.rewound = append(n.rewound, epoch)
		},
	}
	if n.over != nil {
		n.over(&cfg)
	}
	r, err := Open(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Replica = r
	ctx, cancel := context.WithCancel(n.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := s.Close(); err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(n.stop)
}

func (n *node) restart() {
	n.stop()
	n.start()
}

func (n *node) found() []feed.Finding {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.findings)
}

func (n *node) key(name string) string { return feed.KeyOf(n.id, feed.KindService, name) }

func (n *node) put(name, value string) Receipt {
	n.t.Helper()
	got, err := n.Put(n.t.Context(), op(n.key(name), value))
	if err != nil {
		n.t.Fatalf("%s puts %s: %v", n.id, name, err)
	}
	return got
}

func (n *node) root() [32]byte {
	n.t.Helper()
	_, root, err := n.Frontier(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return root
}

func (n *node) debtNow() Debt {
	n.t.Helper()
	d, err := n.Debt(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return d
}

func op(key, value string) feed.Op {
	return feed.Op{Key: key, Action: feed.Put, Value: []byte(value), Scope: feed.ScopeRegion}
}

// connect attaches two nodes; the result cuts them.
func connect(a, b *node) (cut func()) {
	x, y := net.Pipe()
	ctx, cancel := context.WithCancel(a.t.Context())
	var done sync.WaitGroup
	done.Go(func() { a.Attach(ctx, b.id, x) })
	done.Go(func() { b.Attach(ctx, a.id, y) })
	return func() {
		cancel()
		done.Wait()
	}
}

func ring(t *testing.T, n int) []*node {
	t.Helper()
	var nodes []*node
	for i := range n {
		nodes = append(nodes, newNode(t, i+1))
	}
	for i := range nodes {
		connect(nodes[i], nodes[(i+1)%n])
	}
	return nodes
}

// settle lets d of fake time pass and everything come to rest.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func converged(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes[1:] {
		if n.root() != nodes[0].root() {
			a, _, _ := nodes[0].Frontier(t.Context())
			b, _, _ := n.Frontier(t.Context())
			t.Fatalf("%s and %s differ: %+v", nodes[0].id, n.id, a.Diff(b))
		}
		want, _ := nodes[0].List("/")
		got, _ := n.List("/")
		if !slices.EqualFunc(want, got, func(a, b Entry) bool { return a.Key == b.Key && a.Record == b.Record }) {
			t.Fatalf("%s lists %d entries, %s %d", nodes[0].id, len(want), n.id, len(got))
		}
	}
}

// hostile speaks the protocol by hand, as an authenticated peer.
type hostile struct {
	t    *testing.T
	id   spiffeid.ID
	self Identity
	key  feed.EpochKey
	conn net.Conn
	err  chan error // what Attach at the victim returned
}

func newHostile(t *testing.T, i int) *hostile {
	t.Helper()
	h := &hostile{t: t, id: nodeID(i), self: newIdentity(t, nodeID(i), 1)}
	var err error
	if h.key, err = keyFunc(h.self.Cert); err != nil {
		t.Fatal(err)
	}
	return h
}

// to attaches the hostile to a node; whatever it is sent it throws away.
func (h *hostile) to(n *node) *hostile {
	mine, theirs := net.Pipe()
	on := *h
	on.conn, on.err = mine, make(chan error, 1)
	go func() { on.err <- n.Attach(h.t.Context(), h.id, theirs) }()
	go func() {
		in := bufio.NewReader(mine)
		for {
			if _, _, err := readFrame(in); err != nil {
				return
			}
		}
	}()
	on.send(frameCert, h.self.Cert)
	return &on
}

func (h *hostile) send(t frameType, body []byte) {
	h.conn.Write(frame(t, body)) // the victim may have hung up
}

// sign makes a record of the hostile's own feed by whatever header it likes.
func (h *hostile) sign(head feed.Header, ops ...feed.Op) feed.Record {
	h.t.Helper()
	return signAs(h.t, h.self, h.id, head, ops...)
}

func signAs(t *testing.T, self Identity, origin spiffeid.ID, head feed.Header, ops ...feed.Op) feed.Record {
	t.Helper()
	key, err := keyFunc(self.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if head.Kind == 0 {
		head.Kind = feed.Ops
	}
	head.Origin, head.Epoch = origin.String(), key.Epoch
	body, err := statement.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	head.Count, head.Size, head.Root = uint16(len(ops)), uint32(len(body)), feed.OpsRoot(ops)
	payload, err := statement.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	st, err := statement.Sign(self.Signer, statement.Type{Name: "record", Version: 1}, origin.TrustDomain().Name(), payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := statement.Marshal(struct {
		S []byte `cbor:"1,keyasint"`
		B []byte `cbor:"2,keyasint"`
	}{st, body})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := feed.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func now() feed.HLC { return feed.NewHLC(time.Now()) }

func wantErr(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}

// renew is the same key and epoch under a certificate that lasts longer.
func renew(t *testing.T, id Identity, key feed.EpochKey, more time.Duration) Identity {
	t.Helper()
	pub, err := x509.MarshalPKIXPublicKey(key.Key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := json.Marshal(cert{key.Origin.String(), key.Epoch, key.Attested, time.Now().Add(more).Unix(), pub})
	if err != nil {
		t.Fatal(err)
	}
	return Identity{Signer: id.Signer, Cert: der}
}
