package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

const (
	stockServer = "spire-server " + spireVersion + ", sqlite and keys on disk"
	stockAgent  = "spire-agent " + spireVersion
	entriesEach = 1000
	agents      = 16 // that ask for SVIDs: our issuer gives each a share
	entriesOf   = 100
	callers     = 4 // at once
	storm       = 500
	pair        = "loopback, both cores shared with the client, which is the same code for both; ours is `bailiwick run` with all that a node is, and keeps a leaf on disk of all it signs; SPIRE's rate limits are off; "
)

var wireBenches = []bench{
	{
		area: "identity", name: "x509-svids-wire", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "BatchNewX509SVID of 1, 4 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 1, 1200) },
	},
	{
		area: "identity", name: "x509-svids-wire-100", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "BatchNewX509SVID of 100, 4 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 100, 2000) },
	},
	{
		area: "identity", name: "jwt-svids-wire", unit: "SVIDs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "NewJWTSVID, 4 calls at once, in turn for 16 agents with 100 entries each",
		prepare: func(dir string, s size) (sides, error) { return signing(dir, s, 0, 1200) },
	},
	{
		area: "identity", name: "entry-syncs", unit: "syncs/s", higher: true, goal: 2, reference: stockServer,
		note:    pair + "SyncAuthorizedEntries of 1,000 entries that are new to the caller, in pages, 4 at once",
		prepare: entrySyncs,
	},
	{
		area: "identity", name: "reconnect-storm", unit: "seconds", goal: 0.5, reference: stockServer,
		note:    pair + "500 agents connect at once and call RenewAgent, until the last one has its new SVID",
		prepare: reconnectStorm,
	},
	{
		area: "identity", name: "attest-join-token", unit: "ms", goal: 0.5, reference: stockServer,
		note:    pair + "connection, AttestAgent and SVID, one after another",
		prepare: attestTokens,
	},
	{
		area: "identity", name: "attest-tpm", unit: "ms", goal: 0.5, reference: stockServer + ", plugin tpm_devid",
		note:    pair + "the same software TPM and client library; ours is bailiwick_tpm, which also certifies three keys, quotes PCRs and has a boot log judged by policy",
		prepare: attestTPM,
	},
	{
		area: "identity", name: "first-svid", unit: "seconds", goal: 0.5, reference: stockAgent,
		note:    "exec of a node that was never here, to the first X.509-SVID from its Workload API: ours `bailiwick run`, which makes its keys in a software TPM and attests with it, the reference by join token with keys on disk, each with its own server, which is warm",
		prepare: firstSVID,
	},
	{
		area: "identity", name: "rss-node", unit: "MB resident", goal: 0.5, reference: stockAgent,
		prepare: func(dir string, s size) (sides, error) { return resident(dir, s, false) },
	},
	{
		area: "identity", name: "rss-issuer", unit: "MB resident", goal: 0.5, reference: stockServer,
		prepare: func(dir string, s size) (sides, error) { return resident(dir, s, true) },
	},
}

// connected is a machine with a connection and what it found there.
type connected struct {
	*machine
	conn    *grpc.ClientConn
	entries []*types.Entry // of workloads
}

// newConnected makes n machines with some entries each on both servers.
func newConnected(dir string, s size, n, entries int) (ours, stock []*connected, stop func(), err error) {
	a, b, end, err := newPair(dir, s, demand{machines: n, with: n, workloads: entries, selector: "uid:1"})
	if err != nil {
		return nil, nil, nil, err
	}
	if ours, err = a.connect(n, entries); err == nil {
		stock, err = b.connect(n, entries)
	}
	if err != nil {
		end()
		return nil, nil, nil, err
	}
	return ours, stock, func() {
		for _, c := range slices.Concat(ours, stock) {
			_ = c.conn.Close()
		}
		end()
	}, nil
}

func (s *server) connect(n, want int) (out []*connected, err error) {
	all, err := s.joinAll(n)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		c := &connected{machine: m}
		if c.conn, err = m.dial(); err != nil {
			return nil, err
		}
		entries, err := m.sync(context.Background(), c.conn)
		if err != nil {
			return nil, err
		}
		c.entries = slices.DeleteFunc(entries, func(e *types.Entry) bool { return !strings.HasPrefix(e.GetSpiffeId().GetPath(), "/w") })
		if len(c.entries) != want {
			return nil, fmt.Errorf("%d entries, want %d", len(c.entries), want)
		}
		out = append(out, c)
	}
	return out, nil
}

// calls makes n calls, 4 at once, for one machine after the other, and returns
// how many things a second that is, each call being worth each.
func calls(all []*connected, n, each int, call func(ctx context.Context, c *connected, i int) error) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return perSecond(n*each, func() error {
		g, ctx := errgroup.WithContext(ctx)
		for k := range callers {
			g.Go(func() error {
				for i := k; i < n; i += callers {
					if err := call(ctx, all[i%len(all)], i/len(all)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
}

// signing measures SVIDs: X.509 in batches, or JWT where batch is 0.
func signing(dir string, s size, batch, count int) (sides, error) {
	ours, stock, stop, err := newConnected(dir, s, agents, entriesOf)
	if err != nil {
		return sides{}, err
	}
	side := func(all []*connected) (func() (float64, error), error) {
		if batch == 0 {
			return func() (float64, error) {
				return calls(all, count, 1, func(ctx context.Context, c *connected, i int) error {
					return signJWT(ctx, c.conn, c.entries[i%entriesOf].GetId())
				})
			}, nil
		}
		params := map[*connected][]*svidv1.NewX509SVIDParams{}
		for _, c := range all {
			for _, e := range c.entries {
				_, csr, err := request(spiffeid.RequireFromPath(region, e.GetSpiffeId().GetPath()))
				if err != nil {
					return nil, err
				}
				params[c] = append(params[c], &svidv1.NewX509SVIDParams{EntryId: e.GetId(), Csr: csr})
			}
		}
		return func() (float64, error) {
			return calls(all, count/batch, batch, func(ctx context.Context, c *connected, i int) error {
				from := i * batch % entriesOf
				return sign(ctx, c.conn, params[c][from:from+batch])
			})
		}, nil
	}
	out := sides{stop: stop}
	if out.ours, err = side(ours); err == nil {
		out.reference, err = side(stock)
	}
	if err != nil {
		stop()
	}
	return out, err
}

func entrySyncs(dir string, s size) (sides, error) {
	ours, stock, stop, err := newConnected(dir, s, 1, entriesEach)
	if err != nil {
		return sides{}, err
	}
	side := func(all []*connected) func() (float64, error) {
		return func() (float64, error) {
			return calls(all, 120, 1, func(ctx context.Context, c *connected, _ int) error {
				entries, err := c.sync(ctx, c.conn)
				if err == nil && len(entries) < entriesEach {
					err = fmt.Errorf("%d entries, want %d", len(entries), entriesEach)
				}
				return err
			})
		}
	}
	return sides{ours: side(ours), reference: side(stock), stop: stop}, nil
}

func reconnectStorm(dir string, s size) (sides, error) {
	a, b, stop, err := newPair(dir, s, demand{machines: storm})
	if err != nil {
		return sides{}, err
	}
	out := sides{stop: stop}
	for _, side := range []struct {
		*server
		round *func() (float64, error)
	}{{a, &out.ours}, {b, &out.reference}} {
		machines, err := side.joinAll(storm)
		if err != nil {
			stop()
			return sides{}, err
		}
		*side.round = func() (float64, error) {
			keys, err := newKeys(len(machines))
			if err != nil {
				return 0, err
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return seconds(func() error {
				var g errgroup.Group
				for i, m := range machines {
					g.Go(func() error { return m.renew(ctx, keys[i].key, keys[i].csr) })
				}
				return g.Wait()
			})
		}
	}
	return out, nil
}

func attestTokens(dir string, s size) (sides, error) {
	const each = 10
	a, b, stop, err := newPair(dir, s, demand{machines: each * (rounds + 1)})
	if err != nil {
		return sides{}, err
	}
	side := func(s *server) func() (float64, error) {
		next := 0
		return func() (float64, error) {
			keys, err := newKeys(each)
			if err != nil {
				return 0, err
			}
			us, err := micros(each, func() error {
				for _, k := range keys {
					m := machine{s: s, from: address(next)}
					if err := m.attest(context.Background(), s.join[next], k.key, k.csr); err != nil {
						return err
					}
					next++
				}
				return nil
			})
			return us / 1000, err
		}
	}
	return sides{ours: side(a), reference: side(b), stop: stop}, nil
}

const agentConfig = `agent {
  data_dir = %q
  log_level = "WARN"
  server_address = "127.0.0.1"
  server_port = "%s"
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = %q
  join_token = %q
}
plugins {
  KeyManager "disk" { plugin_data { directory = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`

// node is what runs beside workloads, ours or a spire-agent, on a new machine.
type node struct {
	proc   *process
	socket string
	stop   func()
}

// startNode starts machine i of a server with a folder of its own.
func (s *server) startNode(i int) (*node, error) {
	dir := filepath.Join(s.dir, fmt.Sprint("node", i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	sockets, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	n := &node{socket: filepath.Join(sockets, "w.sock")}
	n.stop = func() {
		if n.proc != nil {
			n.proc.stop()
		}
		_ = os.RemoveAll(sockets) // a few sockets below /tmp
	}
	conf := filepath.Join(dir, "node.conf")
	program, text, err := s.nodeProgram(dir, sockets, n.socket, i)
	if err == nil {
		err = os.WriteFile(conf, []byte(text), 0o600)
	}
	if err == nil {
		n.proc, err = startProcess(dir, "node", program, "run", map[bool]string{true: "--config", false: "-config"}[s.ours], conf)
	}
	if err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

func (s *server) nodeProgram(dir, sockets, socket string, i int) (program, conf string, err error) {
	if s.ours {
		if program, err = product(); err != nil {
			return "", "", err
		}
		conf, err = s.nodeFile(dir, sockets, chipID, s.newcomer)
		return program, conf, err
	}
	if program, err = spireProgram("spire-agent"); err != nil {
		return "", "", err
	}
	bundle := filepath.Join(dir, "bundle.pem")
	if err := writeCertificates(bundle, s.bundle.X509Authorities()...); err != nil {
		return "", "", err
	}
	_, port, _ := strings.Cut(s.addr, ":")
	return program, fmt.Sprintf(agentConfig, dir, port, socket, bundle, region.Name(), s.join[i].token, dir), nil
}

// fetch waits for the first SVID as an impatient workload does.
func (n *node) fetch() error {
	return until(n.proc, func() error {
		if _, err := os.Stat(n.socket); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+n.socket))
		return err
	})
}

func firstSVID(dir string, s size) (sides, error) {
	const starts = rounds + 1
	a, b, stop, err := newNodes(dir, s, starts)
	if err != nil {
		return sides{}, err
	}
	side := func(s *server) func() (float64, error) {
		next := 0
		return func() (float64, error) {
			var n *node
			defer func() {
				if n != nil {
					n.stop()
				}
			}()
			return seconds(func() (err error) {
				if n, err = s.startNode(next); err != nil {
					return err
				}
				next++
				return n.fetch()
			})
		}
	}
	return sides{ours: side(a), reference: side(b), stop: stop}, nil
}

// newNodes starts servers that n nodes may join, each with one workload: any
// process of this user. Ours have one TPM, and come back to it with nothing else.
func newNodes(dir string, s size, n int) (ours, stock *server, stop func(), err error) {
	d, err := withChip(dir, s)
	if err != nil {
		return nil, nil, nil, err
	}
	d.machines, d.with, d.workloads, d.selector = n, n, 1, fmt.Sprintf("uid:%d", os.Getuid())
	if ours, stock, stop, err = newPair(dir, s, d); err != nil {
		d.chip.stop()
		return nil, nil, nil, err
	}
	ours.newcomer = d.chip
	ours.chips = append(ours.chips, d.chip)
	return ours, stock, stop, nil
}

// withChip makes a machine with a TPM.
func withChip(dir string, s size) (d demand, err error) {
	if s == tiny {
		return d, errTiny
	}
	if d.makers, err = maker.OpenCA(filepath.Join(dir, "maker")); err != nil {
		return d, err
	}
	d.chip, err = newChip(d.makers, dir)
	return d, err
}

// attestTPM measures the same library, the same TPM, and what each server has to
// ask of one.
func attestTPM(dir string, s size) (sides, error) {
	d, err := withChip(dir, s)
	if err != nil {
		return sides{}, err
	}
	var byOurs, byDevID spire.Attester
	if byOurs, err = d.chip.ours(); err == nil {
		byDevID, d.devid, err = d.chip.devid()
	}
	if err != nil {
		d.chip.stop()
		return sides{}, err
	}
	d.selector = "uid:1"
	a, b, stop, err := newPair(dir, s, d)
	if err != nil {
		d.chip.stop()
		return sides{}, err
	}
	side := func(s *server, by spire.Attester) func() (float64, error) {
		return func() (float64, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			us, err := micros(1, func() error {
				_, err := spire.Attest(ctx, spire.Config{Addr: s.addr, TrustDomain: region, Bundles: s.bundle}, by, d.chip.keys.Node())
				return err
			})
			return us / 1000, err
		}
	}
	return sides{ours: side(a, byOurs), reference: side(b, byDevID), stop: func() { d.chip.stop(); stop() }}, nil
}

// resident measures memory after work: of a node that served a workload, or of
// the server that signed for agents.
func resident(dir string, s size, servers bool) (sides, error) {
	if servers {
		ours, stock, stop, err := newConnected(dir, s, agents, entriesOf)
		if err != nil {
			return sides{}, err
		}
		for _, all := range [][]*connected{ours, stock} {
			_, err := calls(all, 4000, 1, func(ctx context.Context, c *connected, i int) error {
				if err := signJWT(ctx, c.conn, c.entries[i%entriesOf].GetId()); err != nil {
					return err
				}
				_, err := c.sync(ctx, c.conn)
				return err
			})
			if err != nil {
				stop()
				return sides{}, err
			}
		}
		return idle(ours[0].s.proc, stock[0].s.proc, "after 4,000 JWT-SVIDs and syncs of 100 entries for 16 agents", stop), nil
	}
	a, b, stop, err := newNodes(dir, s, 1)
	if err != nil {
		return sides{}, err
	}
	var nodes []*node
	all := func() {
		for _, n := range nodes {
			n.stop()
		}
		stop()
	}
	for _, s := range []*server{a, b} {
		n, err := s.startNode(0)
		if err == nil {
			nodes = append(nodes, n)
			err = n.fetch()
		}
		if err != nil {
			all()
			return sides{}, err
		}
	}
	return idle(nodes[0].proc, nodes[1].proc, "a workload has had its SVID", all), nil
}

// idle measures two processes that have had ten seconds of rest.
func idle(ours, reference *process, when string, stop func()) sides {
	time.Sleep(10 * time.Second)
	var last [2]memory
	side := func(i int, p *process) func() (float64, error) {
		return func() (v float64, err error) {
			last[i], err = p.memory()
			return last[i].resident, err
		}
	}
	return sides{ours: side(0, ours), reference: side(1, reference), stop: stop, note: func() string {
		return fmt.Sprintf("VmRSS 10 s %s: ours %s; reference %s", when, last[0], last[1])
	}}
}
