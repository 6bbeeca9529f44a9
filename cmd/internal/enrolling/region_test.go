package enrolling

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

const joinToken = "open sesame"

var (
	tdEast   = spiffeid.RequireTrustDomainFromString("east.dev.example")
	nodeN1   = spiffeid.RequireFromPath(tdEast, "/node/n1")
	liar     = spiffeid.RequireFromPath(tdEast, "/node/liar")
	workShop = spiffeid.RequireFromPath(tdEast, "/workload/shop")
)

// testRegion is a region's issuer and authority, which run, for one node at a time.
type testRegion struct {
	t      *testing.T
	global *ecdsa.PrivateKey
	record []byte   // trust record
	heads  [][]byte // of policy, for whoever enrols
	addr   string
	server *issuer.Server
	store  *store.Store

	asked  atomic.Int64 // how often the issuer asked for a standing of agent or node: in every call, of both
	refuse atomic.Int64 // the time at which the answer is no; 0: never

	shut  atomic.Bool        // whether the node is quarantined
	heard chan issuer.Appeal // of it
}

// newTestRegion has the given attestors beside the join token, and gives the node
// to whoever attested as one of agents.
func newTestRegion(t *testing.T, attestors []issuer.Attestor, agents ...spiffeid.ID) *testRegion {
	t.Helper()
	r := &testRegion{t: t, global: p256(t), store: openStore(t, filepath.Join(t.TempDir(), "issuer.db")), heard: make(chan issuer.Appeal, 1)}
	now := time.Now()
	ca, err := issuer.NewCA(tdEast, now.Add(-time.Hour))
	r.must(err)
	root, err := epoch.NewRoot(tdEast, now)
	r.must(err)
	key, policyKey := p256(t), p256(t)
	r.record, err = trust.Sign(trust.Record{
		Region: "east", TrustDomain: tdEast, Version: 1, AuthorityKey: &key.PublicKey, PolicyKey: &policyKey.PublicKey,
		X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{root.Certificate()},
		NotBefore: now.Add(-time.Hour).Truncate(time.Second), NotAfter: now.Add(time.Hour).Truncate(time.Second),
	}, r.global)
	r.must(err)
	desk, err := issuing.OpenBranch(nodeN1, issuing.NewOffice(nodeN1, nil, authority.NewEpochs(r.store), key, r.store, slog.New(slog.DiscardHandler)), nil, r.store, slog.New(slog.DiscardHandler))
	r.must(err)
	var tokens issuer.JoinTokens
	tokens.Set([]issuer.Token{{Hash: sha256.Sum256([]byte(joinToken)), Expires: now.Add(time.Hour)}})
	entries := []issuer.Entry{{SPIFFEID: workShop, ParentID: nodeN1, Selectors: []string{"unix:uid:0"}}}
	for _, agent := range agents {
		entries = append(entries, issuer.Entry{SPIFFEID: nodeN1, ParentID: agent})
	}
	r.server, err = issuer.New(issuer.Config{
		CA: ca, RecordRoot: root, Store: r.store, Epochs: desk, Endorse: desk.Endorse,
		Appeal:    func(_ context.Context, a issuer.Appeal) error { r.heard <- a; return nil },
		Attestors: append(attestors, &tokens, issuer.EpochProof{TrustDomain: tdEast, Roots: func() []*x509.Certificate { return []*x509.Certificate{root.Certificate()} }}), Entries: entries, TrustRecords: func() [][]byte { return [][]byte{r.record} },
		PolicyHeads: func(spiffeid.ID) [][]byte { return r.heads },
		Standing: func(id spiffeid.ID) error {
			if id == workShop { // a node goes on without a workload's SVID
				return nil
			}
			if r.shut.Load() {
				return errors.New("quarantined")
			}
			if r.asked.Add(1) == r.refuse.Load() {
				return errors.New("not now")
			}
			return nil
		},
	})
	r.must(err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	r.addr = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		r.must(<-served)
	})
	return r
}

func (r *testRegion) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tokenAgent is whoever attested by the join token.
func tokenAgent(t *testing.T) spiffeid.ID {
	t.Helper()
	id, err := issuer.AgentID(tdEast, "join_token", fmt.Sprintf("%x", sha256.Sum256([]byte(joinToken))))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// config is of a node without a TPM, whose state is in dir.
func (r *testRegion) config(dir string) config.Config {
	r.t.Helper()
	c := config.Config{Node: nodeN1, State: config.Path(dir)}
	c.TPM.Mode = "off"
	c.Enrol.Issuers = []string{r.addr}
	c.Enrol.TokenFile = config.Path(filepath.Join(dir, "token"))
	r.must(os.MkdirAll(dir, 0o700))
	r.must(os.WriteFile(string(c.Enrol.TokenFile), []byte(joinToken+"\n"), 0o600))
	return c
}

// start is a start of the node's enrolling part. The store is the caller's to close.
func (r *testRegion) start(c config.Config, st *store.Store) *Credentials {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	m, err := machine.Open(c, st, log)
	r.must(err)
	r.t.Cleanup(func() { _ = m.Close() }) // closing twice is no error
	v, err := OpenVault(string(c.State), false, m, log)
	r.must(err)
	set, err := trust.NewSet([]*ecdsa.PublicKey{&r.global.PublicKey}, 1)
	r.must(err)
	_, _, err = set.Apply(r.record, time.Now())
	r.must(err)
	creds := New(Config{Node: c, Machine: m, Trust: set, Vault: v, Store: st, Log: log})
	creds.Load()
	return creds
}

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closing twice is no error
	return s
}
