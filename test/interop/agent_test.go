package interop

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// self is the selector every program of these tests shows.
var self = fmt.Sprintf("unix:uid:%d", os.Getuid())

// agent is a stock spire-agent that runs, and a workload beside it: this process.
type agent struct {
	proc     *process
	begin    func(t *testing.T) *process
	s        *server
	e        evidence
	socket   string
	workload *workloadapi.Client
}

func newAgent(t *testing.T, s *server, e evidence) *agent {
	t.Helper()
	dir := folder(t)
	a := &agent{s: s, e: e, socket: filepath.Join(dir, "w.sock")}
	conf := write(t, dir, "agent.conf", `agent {
  data_dir = %q
  log_level = "DEBUG"
  server_address = "127.0.0.1"
  server_port = "%d"
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = %q
  %s
  experimental { sync_interval = "1s" %s }
}
plugins {
  KeyManager "disk" { plugin_data { directory = %q } }
  WorkloadAttestor "unix" { plugin_data {} }
  %s
}
`, dir, s.port, a.socket, s.bundleFile(t, dir), td.Name(), e.extra, e.experimental, dir, e.plugin)
	a.begin = func(t *testing.T) *process {
		return start(t, dir, "spire-agent", nil, binary(t, "spire-agent"), "run", "-config", conf)
	}
	a.proc = a.begin(t)
	var err error
	a.workload, err = workloadapi.New(context.Background(), workloadapi.WithAddr("unix://"+a.socket))
	must(t, err)
	t.Cleanup(func() { a.workload.Close() })
	return a
}

// svid returns the X.509-SVID of an ID once the agent serves it and complaint, which
// may be nil, has nothing against it.
func (a *agent) svid(t *testing.T, id spiffeid.ID, complaint func(*x509svid.SVID) error) (found *x509svid.SVID) {
	t.Helper()
	eventually(t, "X.509-SVID of "+id.String(), func() error {
		a.alive(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		c, err := a.workload.FetchX509Context(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(c.SVIDs, func(s *x509svid.SVID) bool { return s.ID == id })
		if i < 0 {
			return fmt.Errorf("not among %d", len(c.SVIDs))
		}
		found = c.SVIDs[i]
		if _, _, err := x509svid.Verify(found.Certificates, c.Bundles); err != nil {
			t.Fatalf("%s does not verify: %v", id, err)
		}
		if complaint != nil {
			return complaint(found)
		}
		return nil
	})
	return found
}

func (a *agent) alive(t *testing.T) {
	t.Helper()
	if !a.proc.running() {
		t.Fatalf("spire-agent ended: %s", a.proc.tail(10))
	}
}

// jwt gets a JWT-SVID and has it verified by the agent and by its bundles.
func (a *agent) jwt(t *testing.T, id spiffeid.ID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	svid, err := a.workload.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, Subject: id})
	must(t, err)
	bundles, err := a.workload.FetchJWTBundles(ctx)
	must(t, err)
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{audience}); err != nil {
		t.Errorf("JWT-SVID of %s: %v", id, err)
	}
	if got, err := a.workload.ValidateJWTSVID(ctx, svid.Marshal(), audience); err != nil || got.ID != id {
		t.Errorf("the agent on the JWT-SVID of %s: %v", id, err)
	}
}

// another complains of a certificate that is no newer one.
func another(than *x509svid.SVID) func(*x509svid.SVID) error {
	serial := new(big.Int).Set(than.Certificates[0].SerialNumber)
	return func(s *x509svid.SVID) error {
		if s.Certificates[0].SerialNumber.Cmp(serial) == 0 {
			return errors.New("still the same certificate")
		}
		return nil
	}
}

// renewed waits until the agent uses a newer SVID of its own.
func (a *agent) renewed(t *testing.T, before string) {
	t.Helper()
	eventually(t, "renewal of the agent SVID", func() error {
		a.alive(t)
		now, err := a.s.serial(t.Context(), a.e.agent)
		if err == nil && now == before {
			err = errors.New("still the same serial number")
		}
		return err
	})
}

// agentCell is what a cell of a stock agent does.
func agentCell(t *testing.T, s *server, p *pki, m method) {
	e := m.prove(t, s, p)
	id := spiffeid.RequireFromPathf(td, "/workload/%s", m.unique("agent"))
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	svid := a.svid(t, id, nil)
	own, err := s.serial(t.Context(), e.agent)
	must(t, err)
	a.jwt(t, id)
	a.renewed(t, own)
	for range 2 {
		svid = a.svid(t, id, another(svid))
	}
	a.jwt(t, id)
}
