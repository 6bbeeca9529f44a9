package app

import (
	"context"
	"crypto/ecdsa"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// appraisals is what this node makes of the machines of its region, itself among
// them: it judges the evidence in their feeds by the checks in code and by its own
// region's policy, and notices when none comes. What it finds is its own view: it
// shows, it is an input to policy, and it convicts nobody.
type appraisals struct {
	app      *App
	interval time.Duration
	began    time.Time
	live     map[spiffeid.ID]time.Time // look's: see within
	log      *slog.Logger
	judged   *prometheus.CounterVec
	nodes    *prometheus.GaugeVec

	mu      sync.RWMutex // held for map work only
	known   map[spiffeid.ID]appraised
	pending map[spiffeid.ID]bool
	wake    chan struct{}
}

// appraised is one node's judgement and what came of it.
type appraised struct {
	judgement
	found, detail string // the finding in force; empty: none
	told          bool   // the trail has what is found
}

func newAppraisals(a *App) *appraisals {
	m := promauto.With(a.metrics)
	return &appraisals{
		app: a, interval: a.cfg.Attest.Interval.Every(), began: time.Now(), log: a.log,
		judged: m.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_attest_appraisals_total", Help: "Evidence of the region's nodes that was appraised here, by result and rule.",
		}, []string{"result", "rule"}),
		nodes: m.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bailiwick_attest_nodes", Help: "Nodes of the region with a TPM, by what this node finds of their attestation.",
		}, []string{"state"}),
		known: map[spiffeid.ID]appraised{}, pending: map[spiffeid.ID]bool{}, wake: make(chan struct{}, 1),
	}
}

// heard takes in a change of state.
func (p *appraisals) heard(c replica.Change) {
	if c.Kind != feed.KindAttestation || c.Deleted || c.Name != evidenceName {
		return // the rest comes before the evidence, as the feed is in order
	}
	p.mu.Lock()
	p.pending[c.Owner] = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run judges what comes and notices what does not, until ctx ends.
func (p *appraisals) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	revision := p.app.engine.Revision()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-tick.C:
			if now := p.app.engine.Revision(); now != revision {
				revision = now
				p.again()
			}
		}
		p.mu.Lock()
		todo := p.pending
		p.pending = map[spiffeid.ID]bool{}
		p.mu.Unlock()
		for id := range todo {
			p.judge(ctx, id)
		}
		p.look(time.Now())
	}
}

// again has everything judged anew.
func (p *appraisals) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.known {
		p.pending[id] = true
	}
}

func (p *appraisals) judge(ctx context.Context, id spiffeid.ID) {
	a, now := p.app, time.Now()
	cert, ok := a.verify.of(id)
	entry, held := a.replica.Get(feed.KeyOf(id, feed.KindAttestation, evidenceName))
	if !held || !ok || !cert.Attested() || id.TrustDomain() != a.cfg.Node.TrustDomain() {
		return // whoever has no TPM has nothing to prove with
	}
	before := p.of(id).judgement
	if entry.Epoch < before.epoch || entry.Epoch == before.epoch && entry.Seq < before.seq {
		return // a frozen feed went back to this; it was judged when it was news
	}
	endorsement, _ := a.replica.Get(feed.KeyOf(id, feed.KindAttestation, endorsementName))
	newest, _, _ := newestBeacon(a.ownBook(), a.ownRegion())
	j := judge(now, exhibit{
		node: id, entry: entry, endorsement: endorsement.Value, authority: p.authorityKey(id), newest: newest.Version,
		log:    func(hash [32]byte) []byte { return logOf(a.replica.Get, id, hash) },
		before: before,
	})
	if j.proven {
		j.decision = a.engine.Decide(ctx, j.question(a.subjects.node(a.cfg.Node), now))
	}
	result := "accepted"
	rule, _ := j.refusal()
	if rule != "" {
		result = "refused"
	}
	p.judged.WithLabelValues(result, rule).Inc()
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.known[id]
	was.judgement = j
	p.known[id] = was
}

func (p *appraisals) authorityKey(id spiffeid.ID) *ecdsa.PublicKey {
	r, ok := p.app.trust.Record(id.TrustDomain())
	if !ok {
		return nil
	}
	return r.AuthorityKey
}

// look finds out what is wrong now, and tells every change once.
func (p *appraisals) look(now time.Time) {
	a := p.app
	since := map[spiffeid.ID]time.Time{a.cfg.Node: p.began}
	for _, peer := range a.link.Peers() {
		since[peer.ID] = peer.Since
	}
	for id, at := range p.within(now) {
		if since[id].IsZero() || at.Before(since[id]) {
			since[id] = at
		}
	}
	states := map[string]float64{"ok": 0, "refused": 0, "silent": 0, "unknown": 0}
	for _, n := range append(a.dir.neighbours(), neighbour{id: a.cfg.Node}) {
		cert, ok := a.verify.of(n.id)
		if !ok || !cert.Attested() {
			continue
		}
		is := p.of(n.id)
		rule, detail := is.finding(now, since[n.id], p.interval)
		switch {
		case rule == ruleMissing || rule == ruleStale:
			states["silent"]++
		case rule != "":
			states["refused"]++
		case is.at.IsZero():
			states["unknown"]++
		default:
			states["ok"]++
		}
		p.tell(n.id, is, rule, detail)
		a.accusing.found(now, n.id, rule, detail, is.record, is.at)
	}
	for state, count := range states {
		p.nodes.WithLabelValues(state).Set(count)
	}
}

// within says since when without a gap nodes are heard of that this one need have no
// link to: their records come, so that their evidence should.
func (p *appraisals) within(now time.Time) map[spiffeid.ID]time.Time {
	live := map[spiffeid.ID]time.Time{}
	if p.app.peering.sparse() {
		for _, n := range p.app.dir.neighbours() {
			at, ok := p.app.dir.heard(p.app.replica, n.id)
			if !ok || now.Sub(at) > recordTTL {
				continue
			}
			if live[n.id] = now; !p.live[n.id].IsZero() {
				live[n.id] = p.live[n.id]
			}
		}
	}
	p.live = live
	return live
}

// tell keeps a finding, and where it is another than before, logs and records it.
func (p *appraisals) tell(id spiffeid.ID, is appraised, rule, detail string) {
	p.mu.Lock()
	was := p.known[id]
	first := !was.told && (was.proven || rule != "")
	p.known[id] = appraised{judgement: was.judgement, found: rule, detail: detail, told: was.told || first}
	p.mu.Unlock()
	if first || was.found != rule {
		p.record(id, was.judgement, rule, detail)
	}
	if was.found == rule {
		return
	}
	if rule == "" {
		p.log.Info("attestation is good again", "node", id, "was", was.found)
		return
	}
	select {
	case p.app.recheck <- struct{}{}: // policy may not let its connections stay
	default: // that is to be done anyway
	}
	p.log.Warn("attestation is not good: what policy wants attested is denied to this node", "node", id, "rule", rule, "detail", detail)
	d := is.decision
	if d.ID == "" || d.Allow { // no rule of policy refused it: a check in code did
		d = policy.Decision{
			ID: policy.NewID(), Kind: policy.AttestNode, Target: is.ekHash(), Rule: rule, Reason: detail, At: time.Now(), Revision: p.app.engine.Revision(),
		}
	}
	d.Source = id.String()
	p.app.decisions.Record(d)
}

// record puts into the trail what is found of a machine, and on which evidence.
func (p *appraisals) record(id spiffeid.ID, j judgement, rule, detail string) {
	body := map[string]any{"node": id.String(), "ok": rule == ""}
	if rule != "" {
		body["rule"], body["why"] = rule, detail
	}
	if j.record != (feed.ID{}) {
		body["record"], body["epoch"], body["seq"] = j.record[:], j.epoch, j.seq
	}
	if j.proven {
		body["ek"], body["beacon"] = j.endorsement.EKHash[:], j.beacon.Number
	}
	if err := p.app.leaf(trail.IdentityAttest, body); err != nil {
		p.app.trail.gap(1, "what is found of a machine could not be recorded")
	}
}

func (p *appraisals) of(id spiffeid.ID) appraised {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.known[id]
}

// over lays what is found of a node's machine over what its enrolment says.
func (p *appraisals) over(id spiffeid.ID, enrolled policyAttestation) policyAttestation {
	is := p.of(id)
	if is.found != "" {
		enrolled.ok = false
	}
	if !is.at.IsZero() {
		enrolled.at = is.at
	}
	return enrolled
}
