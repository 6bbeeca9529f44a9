package interop

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// Lifetimes of what both servers issue: short, so that a cell sees renewals.
const (
	agentTTL    = 24 // seconds
	workloadTTL = 16
)

var td = spiffeid.RequireTrustDomainFromString("east.dev.example")

// server is our issuer or a stock spire-server that runs.
type server struct {
	ours   bool
	dir    string
	port   int
	socket string // of the operator's API
	proc   *process
	begin  func(t *testing.T) *process // starts it again

	control, workload string // sockets of our node: its own API, the Workload API

	agents  agentv1.AgentClient
	entries entryv1.EntryClient
	bundles bundlev1.BundleClient
	keys    localauthorityv1.LocalAuthorityClient
}

// open starts it and waits until it answers.
func (s *server) open(t *testing.T) *server {
	t.Helper()
	s.start(t)
	s.ready(t)
	return s
}

// start starts it, and has the operator's API at hand.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.proc = s.begin(t)
	conn, err := grpc.NewClient("unix://"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	s.agents, s.entries = agentv1.NewAgentClient(conn), entryv1.NewEntryClient(conn)
	s.bundles, s.keys = bundlev1.NewBundleClient(conn), localauthorityv1.NewLocalAuthorityClient(conn)
}

func (s *server) ready(t *testing.T) {
	t.Helper()
	eventually(t, "server is up", func() error {
		if !s.proc.running() {
			t.Fatalf("the server ended: %s", s.proc.tail(10))
		}
		_, err := s.bundle(t)
		return err
	})
}

// newStock starts a stock spire-server.
func newStock(t *testing.T, p *pki) *server {
	t.Helper()
	dir, port, health := folder(t), freePort(t), freePort(t)
	s := &server{dir: dir, port: port, socket: filepath.Join(dir, "api.sock")}
	conf := write(t, dir, "server.conf", `server {
  bind_address = "127.0.0.1"
  bind_port = "%d"
  socket_path = %q
  trust_domain = %q
  data_dir = %q
  log_level = "DEBUG"
  ca_ttl = "1h"
  agent_ttl = "%ds"
  default_x509_svid_ttl = "%ds"
  ratelimit { attestation = false signing = false }
  experimental { cache_reload_interval = "1s" }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = %q } }
  KeyManager "disk" { plugin_data { keys_path = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  NodeAttestor "x509pop" { plugin_data { ca_bundle_path = %q } }
  NodeAttestor "tpm_devid" { plugin_data { devid_ca_path = %q endorsement_ca_path = %q } }
}
health_checks { listener_enabled = true bind_address = "127.0.0.1" bind_port = "%d" ready_path = "/ready" }
`, port, s.socket, td.Name(), dir, agentTTL, workloadTTL, filepath.Join(dir, "ds.sqlite3"), filepath.Join(dir, "keys.json"),
		p.popRoot, p.devidRoot, p.makerRoots, health)
	s.begin = func(t *testing.T) *process {
		proc := start(t, dir, "spire-server", nil, binary(t, "spire-server"), "run", "-config", conf)
		eventually(t, "spire-server is ready", func() error {
			if !proc.running() {
				t.Fatalf("spire-server ended: %s", proc.tail(10))
			}
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", health))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("status %s", resp.Status)
			}
			return nil
		})
		return proc
	}
	return s.open(t)
}

func (s *server) bundle(t *testing.T) (*spiffebundle.Bundle, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m, err := s.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return nil, err
	}
	b := spiffebundle.New(td)
	for _, a := range m.GetX509Authorities() {
		cert, err := x509.ParseCertificate(a.GetAsn1())
		if err != nil {
			return nil, err
		}
		b.AddX509Authority(cert)
	}
	for _, k := range m.GetJwtAuthorities() {
		key, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
		if err != nil {
			return nil, err
		}
		if err := b.AddJWTAuthority(k.GetKeyId(), key); err != nil {
			return nil, err
		}
	}
	if len(b.X509Authorities()) == 0 || len(b.JWTAuthorities()) == 0 {
		return nil, fmt.Errorf("bundle has %d X.509 and %d JWT authorities", len(b.X509Authorities()), len(b.JWTAuthorities()))
	}
	return b, nil
}

// config is what our client needs to talk to it.
func (s *server) config(t *testing.T) spire.Config {
	t.Helper()
	b, err := s.bundle(t)
	must(t, err)
	return spire.Config{Addr: fmt.Sprintf("127.0.0.1:%d", s.port), TrustDomain: td, Bundles: b}
}

// bundleFile is what a stock spire-agent trusts at first.
func (s *server) bundleFile(t *testing.T, dir string) string {
	t.Helper()
	b, err := s.bundle(t)
	must(t, err)
	var out []byte
	for _, c := range b.X509Authorities() {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	path := filepath.Join(dir, "bundle.pem")
	must(t, os.WriteFile(path, out, 0o600))
	return path
}

// token makes a join token and returns the agent ID it leads to.
func (s *server) token(t *testing.T) (token string, agent spiffeid.ID) {
	t.Helper()
	m, err := s.agents.CreateJoinToken(t.Context(), &agentv1.CreateJoinTokenRequest{Ttl: 600})
	must(t, err)
	name := m.GetValue()
	if s.ours { // SPIRE's ID gives the token away
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:])
	}
	return m.GetValue(), agentID("join_token", name)
}

// entry registers one workload and returns the entry's ID.
func (s *server) entry(t *testing.T, parent, id spiffeid.ID, selectors ...string) string {
	t.Helper()
	return s.register(t, newEntry(parent, id, selectors...))[0]
}

func newEntry(parent, id spiffeid.ID, selectors ...string) *types.Entry {
	e := &types.Entry{ParentId: idMessage(parent), SpiffeId: idMessage(id), X509SvidTtl: workloadTTL, JwtSvidTtl: 60}
	for _, s := range selectors {
		kind, value, _ := strings.Cut(s, ":")
		e.Selectors = append(e.Selectors, &types.Selector{Type: kind, Value: value})
	}
	return e
}

func (s *server) register(t *testing.T, list ...*types.Entry) (ids []string) {
	t.Helper()
	resp, err := s.entries.BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: list})
	must(t, err)
	for i, r := range resp.GetResults() {
		if r.GetStatus().GetCode() != int32(codes.OK) {
			t.Fatalf("entry %d: %v", i, r.GetStatus())
		}
		ids = append(ids, r.GetEntry().GetId())
	}
	return ids
}

// serial is the serial number of the agent SVID the server counts as active.
func (s *server) serial(ctx context.Context, id spiffeid.ID) (string, error) {
	a, err := s.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: idMessage(id)})
	return a.GetX509SvidSerialNumber(), err
}

func (s *server) ban(t *testing.T, id spiffeid.ID) {
	t.Helper()
	_, err := s.agents.BanAgent(t.Context(), &agentv1.BanAgentRequest{Id: idMessage(id)})
	must(t, err)
}

func (s *server) evict(t *testing.T, id spiffeid.ID) {
	t.Helper()
	_, err := s.agents.DeleteAgent(t.Context(), &agentv1.DeleteAgentRequest{Id: idMessage(id)})
	must(t, err)
}

func agentID(kind, name string) spiffeid.ID {
	return spiffeid.RequireFromPathf(td, "/spire/agent/%s/%s", kind, name)
}

func idMessage(id spiffeid.ID) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()}
}
