package issuer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

var (
	east = spiffeid.RequireTrustDomainFromString("east.dev.example")
	n1   = id("/node/n1")
	shop = id("/workload/shop")
)

func id(path string) spiffeid.ID { return spiffeid.RequireFromPath(east, path) }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// region is an issuer that runs, and all around it.
type region struct {
	t         *testing.T
	ca        *issuer.CA
	root      *epoch.Root
	authority *ecdsa.PrivateKey
	store     *store.Store
	tokens    *issuer.JoinTokens
	machine   *fakeMachine
	server    *issuer.Server
	cfg       spire.Config

	mu  sync.Mutex
	bad map[spiffeid.ID]bool
}

func newRegion(t *testing.T, change func(*issuer.Config)) *region {
	t.Helper()
	r := &region{t: t, authority: newKey(t), tokens: &issuer.JoinTokens{}, machine: newFakeMachine(t), bad: map[spiffeid.ID]bool{}}
	var err error
	if r.ca, err = issuer.NewCA(east, time.Now().Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if r.root, err = epoch.NewRoot(east, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r.store, err = store.Open(filepath.Join(t.TempDir(), "store")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.store.Close() })
	cfg := issuer.Config{
		CA: r.ca, RecordRoot: r.root, Endorse: issuer.EndorseWith(r.authority), Store: r.store, Epochs: fixedEpochs{}, Standing: r.standing,
		Attestors: []issuer.Attestor{r.tokens, r.machine}, Metrics: prometheus.NewRegistry(),
		Entries: []issuer.Entry{
			{SPIFFEID: n1, ParentID: r.machine.id()},
			{SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:1000"}, X509TTL: time.Minute, Hint: "shop"},
			{SPIFFEID: id("/workload/other"), ParentID: id("/node/n2"), Selectors: []string{"unix:uid:1001"}},
		},
		TrustRecords: func() [][]byte { return [][]byte{{1}} },
		PolicyHeads:  func(id spiffeid.ID) [][]byte { return [][]byte{[]byte(id.String()), nil, nil, nil} },
	}
	if change != nil {
		change(&cfg)
	}
	r.ca = cfg.CA
	r.server, err = issuer.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	r.cfg = spire.Config{Addr: l.Addr().String(), TrustDomain: east, Bundles: r.ca}
	return r
}

func (r *region) standing(id spiffeid.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad[id] {
		return errors.New("quarantined")
	}
	return nil
}

func (r *region) quarantine(id spiffeid.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad[id] = true
}

func (r *region) token(secret string, life time.Duration) {
	r.tokens.Set([]issuer.Token{{Hash: sha256.Sum256([]byte(secret)), Expires: time.Now().Add(life)}})
}

// attest returns a client with a fresh agent SVID of the fake machine.
func (r *region) attest() (*spire.Client, spire.Agent) {
	r.t.Helper()
	a, err := spire.Attest(r.t.Context(), r.cfg, r.machine, r.machine.key)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.dial(a), a
}

func (r *region) dial(a spire.Agent) *spire.Client {
	r.t.Helper()
	c, err := spire.Dial(r.cfg, a.SVID)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// entry returns the entry of an ID as c sees it.
func (r *region) entry(c *spire.Client, id spiffeid.ID) spire.Entry {
	r.t.Helper()
	entries, err := c.Entries(r.t.Context(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e spire.Entry) bool { return e.SPIFFEID == id })
	if i < 0 {
		r.t.Fatalf("no entry for %s in %v", id, entries)
	}
	return entries[i]
}

// leaves counts the trail's leaves by kind and, for issue leaves, what.
func (r *region) leaves() map[string]int {
	r.t.Helper()
	all, err := r.store.Outbox(0, 10000)
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]int{}
	for _, e := range all {
		var body map[string]any
		if err := statement.Unmarshal(e.Body, &body); err != nil {
			r.t.Fatal(err)
		}
		name := e.Kind
		if what, ok := body["what"]; ok {
			name += " " + fmt.Sprint(what)
		}
		if ok, is := body["ok"]; is {
			name += " " + fmt.Sprint(ok)
		}
		out[name]++
	}
	return out
}

// fakeMachine is both ends of an attestation type "fake": a machine with a TPM
// that proves by echoing what it must be bound to.
type fakeMachine struct {
	name          string
	key, feed, ak *ecdsa.PrivateKey
	claimed       *ecdsa.PublicKey // what the TPM certifies as node key
	wrongAnswer   bool
	hugeHello     int
}

func newFakeMachine(t testing.TB) *fakeMachine {
	m := &fakeMachine{name: "m1", key: newKey(t), feed: newKey(t), ak: newKey(t)}
	m.claimed = &m.key.PublicKey
	return m
}

func (m *fakeMachine) id() spiffeid.ID { return id("/spire/agent/fake/" + m.name) }

func (m *fakeMachine) Type() string { return "fake" }

func (m *fakeMachine) Begin(context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	payload := []byte(m.name)
	if m.hugeHello > 0 {
		payload = make([]byte, m.hugeHello)
	}
	return payload, func(q spire.Question) ([]byte, error) {
		if m.wrongAnswer {
			return []byte("no"), nil
		}
		return slices.Concat(q.Challenge, q.Exporter, q.CSRKey), nil
	}, nil
}

func (m *fakeMachine) Attest(_ context.Context, e issuer.Evidence, exchange func([]byte) ([]byte, error)) (issuer.Attested, error) {
	challenge := []byte(rand.Text())
	got, err := exchange(challenge)
	if err != nil {
		return issuer.Attested{}, err
	}
	if !bytes.Equal(got, slices.Concat(challenge, e.Exporter, e.CSRKey)) {
		return issuer.Attested{}, errors.New("rule quote-nonce: the answer is not bound to this channel and key")
	}
	return issuer.Attested{Name: string(e.Payload), Reattest: true, TPM: true, EKHash: [32]byte{7}, Maker: "id:46414B45",
		AK: &m.ak.PublicKey, NodeKey: m.claimed, FeedKey: &m.feed.PublicKey, ResetCount: 3}, nil
}

type fixedEpochs struct{}

func (fixedEpochs) Allocate(_ context.Context, r issuer.EpochRequest) (issuer.EpochGrant, error) {
	if r.Have == 99 {
		return issuer.EpochGrant{}, errors.New("the node is on probation")
	}
	class := r.Class
	if !r.Attested {
		class = "unattested"
	} else if class == "unattested" {
		return issuer.EpochGrant{}, errors.New("class unattested")
	}
	return issuer.EpochGrant{Current: 5, Spare: 6, Class: class}, nil
}

func pkix(t testing.TB, pub *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
