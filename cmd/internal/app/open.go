package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

func (a *App) openState() (err error) {
	dir := string(a.cfg.State)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	path := filepath.Join(dir, "state.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && a.cfg.TPM.Mode == "off" {
		a.made = makeFiles(a.cfg)
		a.onStop(func() error { a.made(); return nil })
	}
	if a.store, err = store.Open(path); err != nil {
		return err
	}
	a.onStop(a.store.Close)
	return nil
}

// openMachine opens the machine's keys, once those of a first start are there.
func (a *App) openMachine() (err error) {
	if a.made != nil {
		a.made()
	}
	if a.machine, err = machine.Open(a.cfg, a.store, a.log); err != nil {
		return err
	}
	a.onStop(a.machine.Close)
	return nil
}

// openPolicyBeside is one step: steps that wait for the disk, the TPM and the network, and
// beside them that of policy, which computes. Neither needs the other; the error is that of
// the steps if they have one.
func (a *App) openPolicyBeside(steps ...func() error) func() error {
	return func() error {
		policy := make(chan error, 1)
		go func() { policy <- a.openPolicy() }()
		for _, step := range steps {
			if err := step(); err != nil {
				<-policy
				return err
			}
		}
		return <-policy
	}
}

// makeFiles begins to make the files that the first start of a node without a TPM needs:
// each waits for the disk, and so does the store, which opens meanwhile. The function
// returned waits until they are there. Whoever opens them says what went wrong.
func makeFiles(c config.Config) (wait func()) {
	var all sync.WaitGroup
	if dir := string(c.State); !cache.IsSealed(dir) {
		all.Go(func() { _, _ = cache.Open(dir) })
	}
	all.Go(func() { machine.MakeKeys(c) })
	return all.Wait
}

func (a *App) openTrust() (err error) {
	global, err := globalKeys(a.cfg)
	if err != nil {
		return err
	}
	v, err := enrolling.OpenVault(string(a.cfg.State), a.cfg.TPM.SealCache, a.machine, a.log)
	if err != nil {
		return err
	}
	imported, err := importedTrust(a.store)
	if err != nil {
		return err
	}
	a.trust, err = loadTrust(a.cfg, global, append(imported, v.TrustRecords()...))
	if err != nil {
		return err
	}
	a.creds = enrolling.New(enrolling.Config{
		Node: a.cfg, Version: a.version, Machine: a.machine, Trust: a.trust, Vault: v, Store: a.store, Log: a.log, PolicyHeads: a.floors.Told,
	})
	a.creds.TellKnownTrust()
	a.verify = newVerifier(a.trust)
	a.summaries = summary.NewTracker(a.summaryKey)
	a.dir = newDirectory(a.cfg.Node, a.trust, a.summaries, a.log)
	return nil
}

// openCredentials brings back what was issued before. Where more is to be had from an
// issuer, that begins here; a node that is one itself cannot answer yet.
func (a *App) openCredentials() error {
	a.creds.Load()
	if a.cfg.Issuer == nil {
		a.creds.Start()
		a.onStop(a.creds.Close)
	}
	return nil
}

// awaitTold returns when the trail tells of the trust that this node starts with.
func (a *App) awaitTold() error { return a.creds.Told() }

func (a *App) openPolicy() (err error) {
	if a.global, err = globalKeys(a.cfg); err != nil {
		return err
	}
	a.engine = policy.New(policy.Config{Require: governing.Required, OnRevert: a.policyReverted, Isolated: a.isolated, Metrics: a.metrics})
	a.trail = &trailKeeper{dir: filepath.Join(string(a.cfg.State), "trail"), app: a}
	if a.payloads, err = payload.Open(filepath.Join(string(a.cfg.State), payload.DirName), a.store); err != nil {
		return err
	}
	a.decisions = decision.New(decision.Config{
		Store: a.store, Engine: a.engine, Rules: a.engine.Recording, Each: eachDecision, Keys: a.payloads, Dir: decisionsDir(a.cfg),
		Labels: map[string]string{"id": a.cfg.Node.String(), "version": a.version}, Log: a.log, Metrics: a.metrics,
		Gap: a.trail.gap, Hold: a.cfg.Trail.Hold != "", MaxBytes: int64(a.cfg.Policy.Decisions.MaxBytes),
	})
	a.policies = governing.New(a.cfg, a.engine, a.store, a.global, a.decisions.Change, a.log)
	if err := a.policies.Open(); err != nil {
		return err
	}
	if err := a.floors.Open(a.policies.Book(), a.global); err != nil {
		return err
	}
	a.desk = a.newDesk()
	return nil
}

// decisionsDir is where a node keeps its segments of decisions.
func decisionsDir(c config.Config) string { return filepath.Join(string(c.State), decision.DirName) }

func (a *App) openStanding() error {
	td := a.cfg.Node.TrustDomain()
	a.standing = newStandings(newQuarantineSet(td, a.verify, a.dir), a.store, a.log, a.metrics)
	a.subjects = &subjects{self: a.cfg.Node, dir: a.dir, standing: a.standing, attested: a.attestation}
	a.accusing = a.newAccusing()
	return a.standing.load()
}

func (a *App) openReplica() (err error) {
	a.attesting = newAppraisals(a)
	a.gate = newGate(a.cfg.Node, a.engine, a.subjects.node, a.controlCall, func(d policy.Decision) { a.decisions.Record(d) }, a.metrics)
	if err = a.keptOut.load(a.store, a.log); err != nil {
		return err
	}
	a.gate.segmented = a.keptOut.covers
	a.residency = &residency{
		self: a.cfg.Node, engine: a.engine, subject: a.subjects.node, record: a.decisions.Record, log: a.log, now: time.Now,
		others: func() (out []spiffeid.ID) {
			for _, n := range a.dir.neighbours() {
				out = append(out, n.id)
			}
			return out
		},
	}
	a.replica, err = replica.Open(replica.Config{
		Self: a.cfg.Node, Store: a.store, Keys: a.verify.key, Checkpoints: a.checkpoint, Kinds: kinds(),
		Recordable: func() error { return trail.Room(a.store) },
		Apply:      a.gate.foreign, Resides: a.residency.resides, Roster: a.members, Terms: a.terms, OnFinding: a.onFinding, OnRewound: a.onRewound,
		Policy: a.engine.Revision, Version: a.version, TTL: recordTTL, Log: a.log, Metrics: a.metrics,
	})
	a.standing.size = a.roster
	a.standing.thresholds = (&thresholds{
		engine: a.engine, decide: a.engine.Decide, record: a.decisions.Record, use: a.standing.set.Use, open: a.suspects.open, log: a.log, now: time.Now,
		self: func() *policy.Peer { return a.subjects.node(a.cfg.Node) },
	}).at
	return err
}

func (a *App) openRoles() (err error) {
	a.lease = newLease(a.store, a.dir, a.cfg.Node)
	td := a.cfg.Node.TrustDomain()
	if a.cfg.Authority != nil {
		var key *authority.Key
		if a.authority, key, err = openAuthority(a.cfg, a.dir.region(td), a.store, a.dir.approvers); err != nil {
			return err
		}
		for _, o := range a.authority.Objects() {
			a.dir.object(o.Raw)
		}
		a.office = issuing.NewOffice(a.cfg.Node, a.cfg.Authority.Issuers, a.authority.Epochs(), key.Signer(), a.store, a.log)
		a.office.Appeals = a.appeals().take
		if a.machine.Restored() {
			a.log.Warn("this disk may be an old copy: epochs are given out far above those it knows")
			if err := a.authority.Epochs().Restored(); err != nil {
				return err
			}
		}
	}
	if a.cfg.Issuer == nil {
		return nil
	}
	return a.openIssuing()
}

func (a *App) openLink() (err error) {
	a.partition = &partition{dir: a.dir}
	resetKey := a.creds.Derive("QUIC stateless reset")
	lc := link.Config{
		Listen: a.cfg.Mesh.Listen.String(), SVID: a.creds.SVID(), Bundles: a.trust, ResetKey: &resetKey, Log: a.log, Metrics: a.metrics,
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
	a.link.OnPeer(func(_ spiffeid.ID, up bool) {
		if up {
			a.desk.Kick()
		}
	})
	a.link.Handle(protoPolicy, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) { a.servePolicy(ctx, peer, s) })
	a.openCustody()
	if err := a.openShipping(); err != nil {
		return err
	}
	if a.office != nil {
		a.link.Handle(issuing.Proto, func(_ context.Context, peer spiffeid.ID, s *link.Stream) { a.office.Serve(peer, s) })
	}
	if len(a.cfg.Mesh.Gateways) > 0 {
		if a.gateway, err = a.newGateway(); err != nil {
			return err
		}
	}
	a.peering = &peering{
		self: a.cfg.Node, link: a.link, replica: a.replica, gateway: a.gateway, standing: a.standing, dir: a.dir,
		seeds: a.cfg.Mesh.Join, gateways: a.cfg.Mesh.Gateways, log: a.log,
		metrics: a.metrics,
		shutOut: a.creds.Want, // the issuer says why, and has the new epoch once it is released
	}
	if err := a.peering.start(); err != nil {
		return err
	}
	a.serf = newMembership(a.cfg.Node, a.link, a.peering.reach, a.dir, a.verify, a.creds.EpochCert, a.machine.Feed(), a.cfg.Mesh.Advertise, a.log, a.metrics)
	a.lease.onMode = a.onMode
	a.lease.contacted = a.contacted
	return nil
}

func (a *App) openLocal() (err error) {
	a.onStop(a.trail.close)
	a.standing.gap = a.trail.gap
	h := handler{a}
	if a.control, err = control.Listen(string(a.cfg.Control.Socket), a.cfg.Control.Group, h.admits, h, stateAPI{h}); err != nil {
		return err
	}
	a.onStop(a.control.Close)
	if a.workloads, err = openWorkloadAPI(a); err != nil {
		return err
	}
	a.onStop(a.workloads.close)
	if a.neighbours, err = openNeighbours(a); err != nil {
		return err
	}
	if err := a.gauges(); err != nil {
		return err
	}
	if a.cfg.Metrics.Listen.IsValid() {
		if a.metricLis, err = net.Listen("tcp", a.cfg.Metrics.Listen.String()); err != nil {
			return fmt.Errorf("%w: %w", ErrMetricsPort, err)
		}
	}
	return nil
}
