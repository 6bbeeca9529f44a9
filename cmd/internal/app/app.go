// Package app is the one place that sees every folder: it builds a node from its
// parts, connects what siblings must not know of each other, and runs it.
//
// Building is one straight line of steps in New. Each opens one thing and leaves
// its Close behind; Stop runs them backwards. Run then starts one goroutine for
// each part that owns a state and ends all of them when the first fails or the
// context ends.
//
// A node needs an identity before it can meet anyone. Until the first one is
// issued, or brought back from disk, it has an open control socket that says so,
// and a link that refuses everyone. Nothing else waits for the network: policy,
// trust, state and identity are all read from disk.
package app

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// App is one node.
type App struct {
	cfg     config.Config
	version string
	log     *slog.Logger
	metrics *prometheus.Registry
	stops   []func() error // run backwards by Stop

	global    []*ecdsa.PublicKey
	store     *store.Store
	trust     *trust.Set
	machine   *machine
	engine    *policy.Engine
	levels    []*bundle.Verified
	decisions *decision.Log
	standing  *standings
	attesting *appraisals // of the region's machines
	verify    *verifier
	creds     *credentials
	dir       *directory
	subjects  *subjects

	beginning sync.Mutex    // held while feed and trail move to another epoch
	recheck   chan struct{} // to watchTrust: what live connections rest on has changed

	authority *authority.Authority // nil unless this node is it
	issuer    *issuer.Server       // nil unless this node is one
	issuerLis net.Listener

	replica   *replica.Replica
	summaries *summary.Tracker
	gateway   *summary.Gateway // nil unless this node is one
	link      *link.Link
	peering   *peering
	partition *partition
	data      *dataPath
	serf      *membership
	lease     *lease
	trail     *trailKeeper
	control   *control.Server
	workloads *workloadAPI
	metricLis net.Listener
}

// Run builds the node and runs it until ctx ends. The error is that of the step
// or part that failed first, joined with those of stopping.
func Run(ctx context.Context, c config.Config, version string, log *slog.Logger) error {
	a, err := New(c, version, log)
	if err != nil {
		return err
	}
	if err = a.Run(ctx); err == nil {
		err = a.leaf(trail.NodeStop, map[string]any{})
	}
	return errors.Join(err, a.Stop())
}

// New builds a node; nothing of it runs yet.
func New(c config.Config, version string, log *slog.Logger) (*App, error) {
	a := &App{cfg: c, version: version, log: log, metrics: prometheus.NewRegistry(), recheck: make(chan struct{}, 1)}
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func() error{
		a.openState, a.openTrust, a.openPolicy, a.openStanding, a.openCredentials,
		a.openReplica, a.openRoles, a.openLink, a.openDataPath, a.openLocal,
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, a.Stop())
		}
	}
	return a, nil
}

// Stop closes everything that New opened, last first.
func (a *App) Stop() error {
	var errs []error
	for _, stop := range slices.Backward(a.stops) {
		errs = append(errs, stop())
	}
	a.stops = nil
	return errors.Join(errs...)
}

func (a *App) onStop(f func() error) { a.stops = append(a.stops, f) }

func (a *App) openState() (err error) {
	dir := string(a.cfg.State)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if a.store, err = store.Open(filepath.Join(dir, "state.db")); err != nil {
		return err
	}
	a.onStop(a.store.Close)
	if a.machine, err = openMachine(a.cfg, a.store, a.log); err != nil {
		return err
	}
	a.onStop(a.machine.close)
	return nil
}

func (a *App) openTrust() (err error) {
	if a.global, err = globalKeys(a.cfg); err != nil {
		return err
	}
	v, err := openVault(string(a.cfg.State), a.cfg.TPM.SealCache, a.machine, a.log)
	if err != nil {
		return err
	}
	a.trust, err = loadTrust(a.cfg, a.global, v.trustRecords())
	if err != nil {
		return err
	}
	a.creds = newCredentials(a.cfg, a.machine, a.trust, v, a.store, a.log)
	a.verify = newVerifier(a.trust)
	a.summaries = summary.NewTracker(a.summaryKey)
	a.dir = newDirectory(a.cfg.Node, a.trust, a.summaries, a.log)
	return nil
}

func (a *App) openPolicy() (err error) {
	a.engine = policy.New(policy.Config{Require: []string{policy.Global, policy.Regional}, Metrics: a.metrics})
	if a.levels, err = activate(a.cfg, a.engine, bundle.NewBook(a.store), a.store, a.global); err != nil {
		return err
	}
	a.decisions = decision.New(decision.Config{Store: a.store, Engine: a.engine, Log: a.log, Metrics: a.metrics})
	return nil
}

func (a *App) openStanding() error {
	td := a.cfg.Node.TrustDomain()
	a.standing = newStandings(newQuarantineSet(td, a.verify, a.dir), a.store, a.log)
	a.subjects = &subjects{self: a.cfg.Node, dir: a.dir, standing: a.standing, attested: a.attestation}
	return a.standing.load()
}

func (a *App) openCredentials() error {
	a.creds.load()
	return nil
}

func (a *App) openReplica() (err error) {
	a.attesting = newAppraisals(a)
	a.replica, err = replica.Open(replica.Config{
		Self: a.cfg.Node, Store: a.store, Keys: a.verify.key, Kinds: kinds(),
		Apply: a.admit, OnFinding: a.onFinding, OnRewound: a.onRewound,
		Policy: a.engine.Revision, TTL: recordTTL, Log: a.log, Metrics: a.metrics,
	})
	a.standing.roster = a.roster
	return err
}

func (a *App) openRoles() (err error) {
	a.lease = newLease(a.store, a.dir, a.cfg.Node)
	if a.cfg.Authority == nil {
		if a.cfg.Issuer != nil {
			return fmt.Errorf("%w: issuer is set and authority is not: the issuer asks the authority for epochs, and both run on one node", config.ErrMistakes)
		}
		return nil
	}
	var key *authority.Key
	if a.authority, key, err = openAuthority(a.cfg, a.dir.region(a.cfg.Node.TrustDomain()), a.store); err != nil {
		return err
	}
	for _, o := range a.authority.Objects() {
		a.dir.object(o.Raw)
	}
	if a.cfg.Issuer == nil {
		return nil
	}
	a.issuer, a.issuerLis, err = issuing{
		cfg: a.cfg, trust: a.trust, authority: a.authority, key: key, standing: a.standing,
		appraise: a.appraise, st: a.store, log: a.log, metrics: a.metrics,
	}.open()
	if err != nil {
		return err
	}
	a.onStop(func() error { return ignoreClosed(a.issuerLis.Close()) })
	return nil
}

func (a *App) openLink() (err error) {
	a.partition = &partition{dir: a.dir}
	resetKey := a.creds.vault.cache.Derive("QUIC stateless reset")
	lc := link.Config{
		Listen: a.cfg.Mesh.Listen.String(), SVID: &a.creds.node, Bundles: a.trust, ResetKey: &resetKey, Log: a.log, Metrics: a.metrics,
		Authorize: func(id spiffeid.ID) error { return a.peering.welcomes(id) },
	}
	if a.cfg.Dev {
		lc.Refuse = a.partition.refuses
	}
	if a.link, err = link.Listen(lc); err != nil {
		return err
	}
	a.onStop(a.link.Close)
	a.partition.link = a.link.Peers
	if len(a.cfg.Mesh.Gateways) > 0 {
		if a.gateway, err = a.newGateway(); err != nil {
			return err
		}
	}
	a.peering = &peering{
		self: a.cfg.Node, link: a.link, replica: a.replica, gateway: a.gateway, standing: a.standing, dir: a.dir,
		seeds: a.cfg.Mesh.Join, gateways: a.cfg.Mesh.Gateways, log: a.log,
		shutOut: a.creds.want, // the issuer says why, and has the new epoch once it is released
	}
	a.peering.start()
	a.serf = newMembership(a.cfg.Node, a.link, a.dir, a.verify, a.creds, a.cfg.Mesh.Advertise, a.log, a.metrics)
	a.lease.onMode = a.onMode
	a.lease.connected = func(id spiffeid.ID) bool { _, ok := a.link.Conn(id); return ok }
	return nil
}

func (a *App) openLocal() (err error) {
	a.trail = &trailKeeper{dir: filepath.Join(string(a.cfg.State), "trail"), app: a}
	a.onStop(a.trail.close)
	a.standing.gap = a.trail.gap
	if a.control, err = control.Listen(string(a.cfg.Control.Socket), handler{a}); err != nil {
		return err
	}
	a.onStop(a.control.Close)
	if a.workloads, err = openWorkloadAPI(a); err != nil {
		return err
	}
	a.onStop(a.workloads.close)
	if err := a.gauges(); err != nil {
		return err
	}
	if a.cfg.Metrics.Listen.IsValid() {
		if a.metricLis, err = net.Listen("tcp", a.cfg.Metrics.Listen.String()); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

// Run runs all parts until ctx ends or one of them fails.
func (a *App) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	part := func(name string, run func(context.Context) error) {
		g.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("control", func(context.Context) error { return a.control.Serve() })
	if a.issuer != nil {
		part("issuer", func(ctx context.Context) error { return a.issuer.Serve(ctx, a.issuerLis) })
	}
	part("credentials", a.creds.run)
	part("replica", a.replica.Run)
	part("standing", a.standing.run)
	part("decisions", a.decisions.Run)
	part("lease", a.lease.run)
	if a.metricLis != nil {
		part("metrics", a.serveMetrics)
	}
	part("node", a.join)
	part("stop", func(ctx context.Context) error {
		<-ctx.Done()
		return a.control.Close() // ends Serve; the rest ends with ctx
	})
	return g.Wait()
}

// join is what waits for an identity: then the node meets the others.
func (a *App) join(ctx context.Context) error {
	for !a.creds.valid() {
		changed := a.creds.onChange()
		if a.creds.valid() {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
	issued := a.creds.onChange()
	if err := a.beginEpoch(ctx, false); err != nil {
		return err
	}
	a.standing.enforce = a.enforce
	a.standing.settle()

	g, ctx := errgroup.WithContext(ctx)
	for name, run := range map[string]func(context.Context) error{
		"link": a.link.Run, "peering": a.peering.run, "directory": a.followState, "tunnels": a.data.run,
		"workload API": a.workloads.run, "membership": a.serf.run, "records": a.publish,
		"appraisals": a.attesting.run, "quotes": newQuoting(a).run, "beacons": a.beacons,
		"changes": func(ctx context.Context) error { return a.watchTrust(ctx, issued) },
	} {
		g.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if a.gateway != nil {
		g.Go(func() error { return a.gateway.Run(ctx) })
	}
	notifySystemd("READY=1")
	return g.Wait()
}

func (a *App) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{Registry: a.metrics}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(a.metricLis); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// appraise asks policy about a machine's verified claims.
func (a *App) appraise(ctx context.Context, c tpm.Claims) error {
	d := a.decisions.Decide(ctx, attestInput(a.subjects.node(a.cfg.Node), c, time.Now()))
	if !d.Allow {
		return fmt.Errorf("rule %s: %s (decision %.8s)", d.Rule, d.Reason, d.ID)
	}
	return nil
}
