package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const agentConfig = `agent {
  data_dir = %q
  log_level = "WARN"
  server_address = "127.0.0.1"
  server_port = "%s"
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = %q
  %s
}
plugins {
  KeyManager "disk" { plugin_data { directory = %q } }
  %s
  WorkloadAttestor "unix" { plugin_data {} }
}
`

// node is what runs beside workloads, ours or a spire-agent, on a new machine.
type node struct {
	proc   *process
	socket string
	stop   func()
}

// startNode starts machine i of a server with a folder of its own: the one with
// the TPM, or one with a token.
func (s *server) startNode(i int, tpm bool) (*node, error) {
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
	program, text, err := s.nodeProgram(dir, sockets, n.socket, i, tpm)
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

func (s *server) nodeProgram(dir, sockets, socket string, i int, tpm bool) (program, conf string, err error) {
	join, err := s.token(i)
	if err != nil {
		return "", "", err
	}
	if s.ours {
		if program, err = product(); err != nil {
			return "", "", err
		}
		if tpm {
			conf, err = s.nodeFile(dir, sockets, chipID(i), withTPM(s.tpm), "")
			return program, conf, err
		}
		token := filepath.Join(dir, "token")
		if err := os.WriteFile(token, []byte(join.token), 0o600); err != nil {
			return "", "", err
		}
		conf, err = s.nodeFile(dir, sockets, join.node, "tpm: {mode: off}\n", fmt.Sprintf(", token_file: %q", token))
		return program, conf, err
	}
	if program, err = spireProgram("spire-agent"); err != nil {
		return "", "", err
	}
	bundle := filepath.Join(dir, "bundle.pem")
	if err := writeCertificates(bundle, s.bundle.X509Authorities()...); err != nil {
		return "", "", err
	}
	token, attestor := fmt.Sprintf("join_token = %q", join.token), `NodeAttestor "join_token" { plugin_data {} }`
	if tpm {
		token = ""
		if attestor, err = s.devid.plugin(dir, s.tpm); err != nil {
			return "", "", err
		}
	}
	_, port, _ := strings.Cut(s.addr, ":")
	return program, fmt.Sprintf(agentConfig, dir, port, socket, bundle, region.Name(), token, dir, attestor), nil
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

func firstSVID(dir string, s size, tpm bool) (sides, error) {
	a, b, stop, err := newNodes(dir, s, rounds+1+mostRepeats, tpm)
	if err != nil {
		return sides{}, err
	}
	var cpu [2]time.Duration
	side := func(s *server, cpu *time.Duration) func() (float64, error) {
		next := 0
		return func() (float64, error) {
			var n *node
			defer func() {
				if n != nil {
					n.stop()
				}
			}()
			next++
			if s.ours && tpm {
				if err := s.nameChip(s.demand, next-1); err != nil {
					return 0, err
				}
			}
			v, err := seconds(func() (err error) {
				if n, err = s.startNode(next-1, tpm); err != nil {
					return err
				}
				return n.fetch()
			})
			if err == nil {
				*cpu, err = n.proc.cpu()
			}
			return v, err
		}
	}
	return sides{ours: side(a, &cpu[0]), reference: side(b, &cpu[1]), stop: stop, note: func() string {
		return fmt.Sprintf("; processor time of the last start: ours %s, reference %s", cpu[0], cpu[1])
	}}, nil
}

// newNodes starts servers that n machines may join by token and one by its TPM,
// each with one workload: any process of this user.
func newNodes(dir string, s size, n int, tpm bool) (ours, stock *server, stop func(), err error) {
	var d demand
	if tpm {
		if d, err = withChip(dir, s); err != nil {
			return nil, nil, nil, err
		}
	}
	d.machines, d.with, d.workloads, d.selector = n, n, 1, fmt.Sprintf("uid:%d", os.Getuid())
	without := func() {
		if d.chip != nil {
			d.chip.stop()
		}
	}
	ours, stock, end, err := newPair(dir, s, d)
	if err != nil {
		without()
		return nil, nil, nil, err
	}
	return ours, stock, func() { end(); without() }, nil
}

// withChip makes a machine with a TPM and a DevID in it.
func withChip(dir string, s size) (d demand, err error) {
	if s == tiny {
		return d, errTiny
	}
	if d.makers, err = maker.OpenCA(filepath.Join(dir, "maker")); err != nil {
		return d, err
	}
	if d.chip, err = newChip(d.makers, dir); err != nil {
		return d, err
	}
	if d.devid, err = d.chip.newDevID(); err != nil {
		d.chip.stop()
	}
	return d, err
}

// attestTPM measures the same library, the same TPM, and what each server has to
// ask of one.
func attestTPM(dir string, s size) (sides, error) {
	d, err := withChip(dir, s)
	if err != nil {
		return sides{}, err
	}
	byOurs, err := d.chip.ours()
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
	return sides{ours: side(a, byOurs), reference: side(b, spire.DevID{Key: d.devid.key, Chain: [][]byte{d.devid.cert}}), stop: func() { d.chip.stop(); stop() }}, nil
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
			_, err := calls(all, 4, 4000, 1, func(c *connected, on *lean, i int) error {
				if err := signJWT(on, c.entries[i%entriesOf].GetId()); err != nil {
					return err
				}
				_, err := c.sync(context.Background(), c.conn)
				return err
			})
			if err != nil {
				stop()
				return sides{}, err
			}
		}
		return idle(ours[0].s.proc, stock[0].s.proc, "after 4,000 JWT-SVIDs and syncs of 100 entries for 16 agents", stop), nil
	}
	a, b, stop, err := newNodes(dir, s, 1, false)
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
		n, err := s.startNode(0, false)
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
