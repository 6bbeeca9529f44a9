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
// trust, state and identity are all read from disk. Asking for the first identity
// takes longest, so it begins as soon as keys and trust are there, beside the rest.
// Policy is compiled while those wait for the disk or the TPM.
//
// # Where things are
//
//	app, open                          the node: its fields, what runs, the steps of building
//	(packages machine and enrolling)   what the machine is; what this node was issued, and its epoch
//	(package governing)                policy: what is held and in force, rolled out, or compared
//	identity                           a node's own, opened by commands while the node is stopped
//	verifier, system                   epoch certificates of all regions; clock and service manager
//	quoting, evidence, appraise,       proving this machine again and again; judging others
//	appraisals, attestation
//	roles, lease, region, conflicts    the authority on this node; how long without it; summaries; two of its
//	                                     objects with one version
//	issuing, news                      the issuer on this node (package issuing), and how it tells nodes of news
//	reach                              who can reach what
//	rules, reload                      trust and other files, at the start and later
//	travelling, reverts, generations,  policy: how it comes and goes on; what follows when the engine goes back;
//	rollout_nodes                        what is in force on other nodes, and what they say of staged records
//	state, records, directory, shared  what peers' state means here; what all owners together give one name
//	admit, residency, debts            what of it may become visible, and where it may be; what is owed
//	peering, membership, overlay,      links and hints; the cuts of dev fleets; streams of a session, and of
//	partition, sessions, pair, datapath  which two belong together; workload traffic
//	standing, thresholds, accusing,    who is shut out, by which numbers, on whose word; what is cut then, and
//	severed                              how soon
//	appeals, rollback, segments,       the way back; and what of a node's state counts meanwhile
//	suspect
//	trails, witnesses, custody,        the trail; having it cosigned, and cosigning others'; copies
//	collector, erasing                   of others'; a copy for a log collector (package shipping)
//	local                              the Workload API
//	neighbours, refusals               ext_authz and AuthZEN; what of their questions is refused unasked
//	memory, metrics                    what work needs, and a node at rest does not; what is counted
//	admin                              who may make which call of the local API
//	control*, state_api, status        the local API
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
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/garbage"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/shipping"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/turns"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

// App is one node.
type App struct {
	cfg     config.Config
	version string
	log     *slog.Logger
	metrics *prometheus.Registry
	reloads <-chan os.Signal
	resume  func() // of garbage.Later; nil: nothing was put off
	code    func(error) string
	stops   []func() error // run backwards by Stop

	global    []*ecdsa.PublicKey
	made      func() // waits for files that are made beside the store; nil: there are none
	store     *store.Store
	trust     *trust.Set
	machine   *machine.Machine
	engine    *policy.Engine
	policies  *governing.Policies
	desk      *travel.Desk      // brings policy from other nodes
	carried   map[string]bool   // names of policy records in this node's feed, since it started; publish's
	answering *turns.Turns      // bounds how many questions of peers are answered at once
	custody   *custody.Keeper   // copies of other nodes' trails; nil: none
	shipper   *shipping.Shipper // of the trail, to a log collector; nil: none
	decisions *decision.Log
	payloads  *payload.Keys
	shadowing *governing.Shadowing
	rolling   *governing.Rolling
	floors    *governing.Floors
	gate      *gate
	residency *residency
	changing  [64]sync.Mutex // by name: held while a part of a shared value is made of the last
	standing  *standings
	suspects  suspects
	keptOut   keptOut
	attesting *appraisals // of the region's machines
	accusing  *accusing   // of what is found of them
	verify    *verifier
	creds     *enrolling.Credentials
	dir       *directory
	subjects  *subjects

	beginning sync.Mutex    // held while feed and trail move to another epoch
	importing sync.Mutex    // held while trust records are judged, kept and put in force
	heard     heardNews     // owned by followState
	recheck   chan struct{} // to watchTrust: what live connections rest on has changed
	reverts   chan revert   // to reverting

	authority *authority.Authority // nil unless this node is it
	office    *issuing.Office      // likewise
	branch    *issuing.Branch      // nil unless this node is an issuer
	issuing   *issuing.Role        // likewise

	replica    *replica.Replica
	summaries  *summary.Tracker
	gateway    *summary.Gateway // nil unless this node is one
	link       *link.Link
	peering    *peering
	partition  *partition
	data       *dataPath
	serf       *membership
	lease      *lease
	trail      *trailKeeper
	book       *witnessing.Book // of keys of trails and witnesses
	witness    *witness.Keeper
	gatherer   *witnessing.Gatherer
	conflicts  map[[32]byte]bool // followState's: losers that are on record
	shownKeys  []byte            // publish's: this node's record of its keys, as it was encoded last
	control    *control.Server
	workloads  *workloadAPI
	neighbours *neighbours
	metricLis  net.Listener
}

// Run builds the node and runs it until ctx ends. Whenever reload delivers, the
// node reads again what may change while it runs. The error is that of the step or
// part that failed first, joined with those of stopping. code names the kind of an error to
// those who ask over the API; it may return "".
func Run(ctx context.Context, c config.Config, version string, log *slog.Logger, reload <-chan os.Signal, code func(error) string) error {
	resume := garbage.Later(garbage.Percent(runPercent(c.Issuer != nil)))
	a, err := New(c, version, log)
	if err != nil {
		return err
	}
	a.reloads, a.resume, a.code = reload, resume, code
	if err = a.Run(ctx); err == nil {
		err = a.leaf(trail.NodeStop, map[string]any{})
	}
	return errors.Join(err, a.Stop())
}

// New builds a node; nothing of it runs yet but what asks an issuer for its identity.
func New(c config.Config, version string, log *slog.Logger) (*App, error) {
	a := &App{cfg: c, version: version, log: log, metrics: prometheus.NewRegistry(), recheck: make(chan struct{}, 1), reverts: make(chan revert, maxReverts), answering: turns.New(policyAnswers, policyAnswersEach), floors: governing.NewFloors(log), heard: heardNews{}}
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func() error{
		a.openState, a.openPolicyBeside(a.openMachine, a.openTrust, a.openCredentials), a.openShadow, a.openStanding,
		a.openReplica, a.openRoles, a.openLink, a.openWitness, a.openDataPath, a.openLocal, a.awaitTold,
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
	if a.issuing != nil {
		part("issuer", a.issuing.Run)
	}
	part("credentials", a.creds.Run)
	part("replica", a.replica.Run)
	part("standing", a.standing.run)
	part("decisions", a.decisions.Run)
	part("shadow", a.shadowing.Run)
	part("rollout shadow", a.shadowing.RunStaged)
	part("policy", a.desk.Run)
	part("staleness", func(ctx context.Context) error { return a.policies.WatchStaleness(ctx, a.lease.quiet) })
	part("reverts", a.reverting)
	part("lease", a.lease.run)
	if a.metricLis != nil {
		part("metrics", a.serveMetrics)
	}
	part("reload", a.reloading)
	if a.resume != nil {
		part("memory", a.giveBack)
	}
	part("node", a.join)
	part("workload API", a.serveWorkloads)
	part("neighbours", a.serveNeighbours)
	part("stop", func(ctx context.Context) error {
		<-ctx.Done()
		return a.control.Close() // ends Serve; the rest ends with ctx
	})
	return g.Wait()
}

// awaitIdentity returns when the node has an identity, or false when ctx ends.
func (a *App) awaitIdentity(ctx context.Context) bool {
	for {
		changed := a.creds.Changed()
		if a.creds.Valid() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// serveWorkloads answers local processes as soon as there is something to answer,
// which is before the node meets the others; until then they wait.
func (a *App) serveWorkloads(ctx context.Context) error {
	if !a.awaitIdentity(ctx) {
		return nil
	}
	return a.workloads.run(ctx)
}

// serveNeighbours answers from the start. Until the node knows who it is, and what its region's
// authority said, the answer is that it cannot decide.
func (a *App) serveNeighbours(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	knows := make(chan struct{})
	defer func() { cancel(); <-knows }()
	go func() {
		defer close(knows)
		if a.awaitIdentity(ctx) && a.lease.settled(ctx) {
			a.neighbours.ready.Store(true)
		}
	}()
	return a.neighbours.run(ctx)
}

// join is what waits for an identity: then the node meets the others.
func (a *App) join(ctx context.Context) error {
	if !a.awaitIdentity(ctx) {
		return nil
	}
	issued := a.creds.Changed()
	if err := a.beginEpoch(ctx, false); err != nil {
		return err
	}
	a.standing.enforce = a.enforce
	a.standing.regained = a.reconsider
	a.standing.settle()

	g, ctx := errgroup.WithContext(ctx)
	for name, run := range map[string]func(context.Context) error{
		"link": a.link.Run, "peering": a.peering.run, "directory": a.followState, "tunnels": a.data.run,
		"membership": a.serf.run, "records": a.publish,
		"appraisals": a.attesting.run, "quotes": newQuoting(a).run, "beacons": a.beacons,
		"rollouts": a.rolling.Run, "witnesses": a.gatherer.Run, "retention": a.keepRetention, "trust beside the trail": a.trustBeside, "payloads": a.keepPayloads, "region log": a.regionLog,
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
	if a.custody != nil {
		g.Go(func() error { return a.custody.Run(ctx) })
	}
	if a.shipper != nil {
		g.Go(func() error { return a.shipper.Run(ctx) })
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
