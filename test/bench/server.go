package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// spireHome is where `make interop` puts what it builds of SPIRE.
var spireHome = filepath.Join(".cache", "interop", "spire-"+spireVersion)

const spireVersion = "1.15.3"

// patience bounds the start of a program on a busy machine.
const patience = 60 * time.Second

// spireProgram returns the path of a program of SPIRE, or errAbsent.
func spireProgram(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join(spireHome, name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s %w: run make interop once: it builds SPIRE", name, errAbsent)
	}
	return path, nil
}

// server is our issuer or a stock spire-server, a process of its own, with what
// a machine needs to join it.
type server struct {
	ours    bool
	dir     string
	sockets string // a folder with a short name: unix sockets have 107 bytes
	addr    string // of the server API
	meet    string // address of a node that others join, in quotes; may be empty
	bundle  *x509bundle.Bundle
	known   atomic.Pointer[x509.Certificate] // its own, verified by lean clients
	proc    *process
	join    []joining // one for each machine
	chips   []*chip   // that run for it
	demand  demand
	tpm     *chip  // of the machine with one, which may join again and again
	devid   *devid // in it
}

func newServer(dir string, ours bool) (*server, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	sockets, err := os.MkdirTemp("", "bench")
	return &server{ours: ours, dir: dir, sockets: sockets, addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), bundle: x509bundle.New(region)}, err
}

// name tells the two servers apart in an error.
func (s *server) name() string {
	if s.ours {
		return "ours"
	}
	return stockServer
}

// token is how machine i gets in, of those that were registered.
func (s *server) token(i int) (joining, error) {
	if i >= len(s.join) {
		return joining{}, fmt.Errorf("%s: %d machines may join and all have: fewer rounds", s.name(), len(s.join))
	}
	return s.join[i], nil
}

func (s *server) stop() {
	if s.proc != nil {
		s.proc.stop()
	}
	for _, c := range s.chips {
		c.stop()
	}
	_ = os.RemoveAll(s.sockets) // a few sockets below /tmp
}

// joining is how one machine gets in: once, by its token.
type joining struct {
	token string
	node  spiffeid.ID // parent of its workloads
}

// newToken makes a token, whose hash is all that ours gets to know.
func newToken(i int) joining {
	return joining{token: fmt.Sprintf("bench-token-%d", i), node: spiffeid.RequireFromPathf(region, "/node/n%d", i)}
}

func (j joining) hash() string {
	sum := sha256.Sum256([]byte(j.token))
	return hex.EncodeToString(sum[:])
}

// demand is what a row wants of its servers.
type demand struct {
	machines  int    // that may join, each once
	workloads int    // entries of each of the first `with` machines
	with      int    //
	selector  string // of those entries
	makers    *maker.CA
	chip      *chip  // another machine, or nil: node /node/chip with one workload
	devid     *devid // its DevID, for SPIRE
}

func (d demand) workload(machine, i int) spiffeid.ID {
	return spiffeid.RequireFromPathf(region, "/workload/w%d-%d", machine, i)
}

// errTiny skips a row that has no small size.
var errTiny = errors.New("it starts whole programs, which have no small size")

// newPair starts both servers. Stop them with the function returned.
func newPair(dir string, s size, d demand) (ours, stock *server, stop func(), err error) {
	if s == tiny {
		return nil, nil, nil, errTiny
	}
	program, err := spireProgram("spire-server")
	if err != nil {
		return nil, nil, nil, err
	}
	var started []*server
	stop = func() {
		for _, s := range started {
			s.stop()
		}
	}
	for _, ours := range []bool{true, false} {
		var srv *server
		sub := filepath.Join(dir, map[bool]string{true: "ours", false: "stock"}[ours])
		if err = os.MkdirAll(sub, 0o700); err != nil {
			break
		}
		if srv, err = newServer(sub, ours); err != nil {
			break
		}
		started = append(started, srv)
		if ours {
			err = srv.startOurs(d)
		} else {
			err = srv.startStock(program, d)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		stop()
		return nil, nil, nil, err
	}
	for _, s := range started {
		s.demand, s.tpm, s.devid = d, d.chip, d.devid
	}
	return started[0], started[1], stop, nil
}

const stockConfig = `server {
  bind_address = "127.0.0.1"
  bind_port = "%s"
  socket_path = %q
  trust_domain = %q
  data_dir = %q
  log_level = "WARN"
  ratelimit { attestation = false signing = false }
  experimental { cache_reload_interval = "1s" }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = %q } }
  KeyManager "disk" { plugin_data { keys_path = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  %s
}
`

// startStock starts a spire-server and registers everything by its own API.
func (s *server) startStock(program string, d demand) (err error) {
	dir, socket := s.dir, filepath.Join(s.sockets, "api.sock")
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	devid := ""
	if d.devid != nil {
		roots, makers := filepath.Join(dir, "devid.pem"), filepath.Join(dir, "makers.pem")
		// SPIRE verifies EK certificates without intermediates: the maker's is among the roots.
		if err := errors.Join(writeCertificates(roots, d.devid.root), writeCertificates(makers, d.makers.Root(), d.makers.Intermediate())); err != nil {
			return err
		}
		devid = fmt.Sprintf("NodeAttestor \"tpm_devid\" { plugin_data { devid_ca_path = %q endorsement_ca_path = %q } }", roots, makers)
	}
	conf := filepath.Join(dir, "server.conf")
	text := fmt.Sprintf(stockConfig, port, socket, region.Name(), dir, filepath.Join(dir, "ds.sqlite3"), filepath.Join(dir, "keys.json"), devid)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	if s.proc, err = startProcess(dir, "spire-server", program, "run", "-config", conf); err != nil {
		return err
	}
	if err := s.register(socket, d); err != nil {
		return fmt.Errorf("spire-server: %w\n%s", err, s.proc.tail())
	}
	return nil
}

func (s *server) register(socket string, d demand) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return err
	}
	defer conn.Close()
	m, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return err
	}
	for _, a := range m.GetX509Authorities() {
		cert, err := x509.ParseCertificate(a.GetAsn1())
		if err != nil {
			return err
		}
		s.bundle.AddX509Authority(cert)
	}
	for i := range d.machines {
		j := newToken(i)
		_, err := agentv1.NewAgentClient(conn).CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 3600, Token: j.token, AgentId: idMessage(j.node)})
		if err != nil {
			return err
		}
		s.join = append(s.join, j)
	}
	entries := entryv1.NewEntryClient(conn)
	entry := func(parent, id spiffeid.ID) *types.Entry {
		return &types.Entry{ParentId: idMessage(parent), SpiffeId: idMessage(id), Selectors: []*types.Selector{{Type: "unix", Value: d.selector}}}
	}
	var batches [][]*types.Entry
	for i := range d.with {
		var batch []*types.Entry
		for k := range d.workloads {
			batch = append(batch, entry(s.join[i].node, d.workload(i, k)))
		}
		batches = append(batches, batch)
	}
	if d.devid != nil {
		batches = append(batches, []*types.Entry{entry(d.devid.agent(), workloadID)})
	}
	for _, batch := range batches {
		resp, err := entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: batch})
		if err != nil {
			return err
		}
		for _, r := range resp.GetResults() {
			if r.GetStatus().GetCode() != int32(codes.OK) {
				return fmt.Errorf("entry: %v", r.GetStatus())
			}
		}
	}
	time.Sleep(2500 * time.Millisecond) // agents get to see entries after two reloads of the server's cache, at most
	return nil
}

func idMessage(id spiffeid.ID) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()}
}

// freePorts returns loopback ports that nobody has at present, for TCP and UDP.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
