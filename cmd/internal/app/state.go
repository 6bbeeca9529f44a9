package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

const (
	// recordTTL is what own records promise: the next one within it.
	recordTTL = time.Minute
	// publishEvery is how often what this node says of itself is compared with
	// what it should say.
	publishEvery = time.Second
)

// attestation is what is known here of how a node proved itself: how it enrolled and, beside
// that, what its evidence since is worth here.
func (a *App) attestation(id spiffeid.ID) policyAttestation {
	as := a.enrolledAs(id)
	if cert, ok := a.verify.of(id); id == a.cfg.Node || ok && cert.Attested() {
		return a.attesting.over(id, as)
	}
	return as
}

// enrolledAs is how a node proved itself when it enrolled. No policy of this node has a say in it.
func (a *App) enrolledAs(id spiffeid.ID) policyAttestation {
	cert, ok := a.verify.of(id)
	switch {
	case id == a.cfg.Node:
		kind := "unattested"
		if a.machine.Attested() {
			kind = "tpm"
		}
		return policyAttestation{kind: kind, class: a.creds.Now().Class, ok: a.machine.Attested(), at: a.creds.Now().At}
	case !ok:
		return a.data.endorsed(id)
	case cert.Attested():
		return policyAttestation{kind: "tpm", class: cert.Class, ok: true, at: cert.NotBefore}
	}
	return policyAttestation{kind: "unattested", class: cert.Class, at: cert.NotBefore}
}

// roster is what the caps of quarantine are measured against: how nodes enrolled,
// which their evidence of the moment does not change.
func (a *App) roster() quarantine.Roster {
	a.standing.set.Enrol(a.observers())
	r := quarantine.Roster{IsAttested: func(id spiffeid.ID) bool { return a.attestation(id).kind == "tpm" }}
	for _, n := range append(a.dir.neighbours(), neighbour{id: a.cfg.Node}) {
		if r.IsAttested(n.id) {
			r.Attested++
		} else {
			r.Unattested++
		}
	}
	return r
}

// members are the nodes of this region, for the choice of those that records are
// pushed to: the failure domain of a node is its zone.
func (a *App) members() (out []replica.Member) {
	for _, n := range a.dir.neighbours() {
		out = append(out, replica.Member{ID: n.id, Domain: n.zone})
	}
	return out
}

// terms are what the configuration says of links with a node.
func (a *App) terms(peer spiffeid.ID) replica.Terms {
	l := a.cfg.LinkTo(peer)
	return replica.Terms{
		Mode:   map[config.LinkMode]replica.Mode{"tree": replica.Tree, "headers": replica.Headers}[l.Mode],
		Budget: uint64(l.Budget),
	}
}

// beginEpoch puts the node's feed and its trail into the epoch it may write.
// Without one it asks the issuer at once.
func (a *App) beginEpoch(ctx context.Context, rewound bool) error {
	a.beginning.Lock()
	defer a.beginning.Unlock()
	number, err := a.creds.Begin(ctx, a.replica, rewound)
	if errors.Is(err, replica.ErrRewound) || errors.Is(err, replica.ErrNoIdentity) || errors.Is(err, feed.ErrOldEpoch) {
		a.log.Error("this node's feed is read-only until its issuer gives a new epoch", "err", err)
		a.creds.Want()
		return nil
	}
	if err != nil {
		return err
	}
	h := a.creds.Now()
	return a.trail.open(a.cfg.Node, number, a.machine.Trail(), a.machine.Attested(), h.Endorsement)
}

// onRewound hears that this disk is behind what the node has signed before.
func (a *App) onRewound(number, seq uint64) {
	if number < a.creds.Now().InUse {
		return // the lost end of an epoch that is over
	}
	a.log.Error("peers hold records of this node that this disk lacks: it was restored", "epoch", number, "seq", seq)
	if err := a.beginEpoch(context.Background(), true); err != nil {
		a.log.Error("begin a new epoch", "err", err)
	}
}

// onFinding hears of a proof, found here or received.
func (a *App) onFinding(proof []byte, f feed.Finding) {
	if !f.Convicts() {
		a.log.Warn("a feed is frozen, and nobody convicted: no TPM backs its epoch", "origin", f.Accused, "class", f.Class)
		return
	}
	if _, _, err := a.standing.evidence(proof, spiffeid.ID{}); err != nil {
		a.log.Error("evidence", "accused", f.Accused, "err", err)
	}
}

// enforce makes the effects of a standing true everywhere at once, and tells what was live until then.
func (a *App) enforce(id spiffeid.ID, e quarantine.Effects) (was severed) {
	if id == a.cfg.Node && e.MinEpoch > a.creds.Now().InUse {
		a.creds.WantAfresh() // released: the epochs so far are void
	}
	a.peering.mute(id, e.RefuseRelay)
	if e.CutSessions {
		if _, linked := a.link.Conn(id); linked {
			was.Links = 1
		}
		was.Tunnels, was.Connections = a.data.cut(id)
	}
	a.link.Recheck()
	was.by = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var err error
	switch {
	case e.FreezeFeed:
		err = a.replica.Freeze(ctx, id)
	case e.MinEpoch > 0 || a.standing.of(id).Findings == 0: // observers took back what froze it
		err = a.replica.Thaw(ctx, id, e.MinEpoch)
	}
	if err != nil {
		a.log.Error("enforce standing on the feed", "id", id, "err", err)
	}
	return was
}

// onMode hears that the autonomy lease ran out, or that the authority is back.
func (a *App) onMode(from, to authority.Mode) {
	level := slog.LevelWarn
	if to == authority.Full {
		level = slog.LevelInfo
	}
	a.log.Log(context.Background(), level, "the autonomy lease changes what this node may do", "from", from, "to", to)
	select {
	case a.recheck <- struct{}{}:
	default: // it is to be done anyway
	}
}

// followState keeps the directory in step with the replica and acts on what
// authorities signed and on evidence that peers carry.
func (a *App) followState(ctx context.Context) error {
	return a.dir.follow(ctx, a.replica, func(c replica.Change) {
		if c.Kind == feed.KindTrail {
			a.heardTrail(c)
		}
		if c.Deleted {
			return
		}
		switch c.Kind {
		case feed.KindAuthority:
			a.onObject(c.Value)
		case feed.KindNode:
			if ask, trust := a.heard.hear(c); ask {
				a.creds.Ask(trust)
			}
		case feed.KindAttestation:
			a.attesting.heard(c)
		case feed.KindPolicy:
			if err := a.desk.Offer(c.Value, time.Now()); err != nil {
				a.log.Debug("policy carried by a peer", "peer", c.Owner, "err", err)
			}
		case feed.KindAccusation:
			if err := a.standing.accusation(c.Owner, c.Value); err != nil && !errors.Is(err, quarantine.ErrForeign) {
				a.log.Debug("accusation by a peer", "peer", c.Owner, "err", err)
			}
		case feed.KindEvidence:
			if _, _, err := a.standing.evidence(c.Value, c.Owner); err != nil && !errors.Is(err, quarantine.ErrForeign) {
				a.log.Debug("evidence carried by a peer", "peer", c.Owner, "err", err)
			}
		}
		if a.gateway != nil {
			a.gateway.Wake()
		}
	})
}

// onObject acts on an authority's statement: releases and revocations change
// standings, the rest is looked up where it is needed.
func (a *App) onObject(raw []byte) {
	s, _ := a.dir.object(raw)
	for _, r := range a.trust.Regions() {
		a.recordConflicts(r.TrustDomain)
	}
	var err error
	switch s.Kind {
	case authority.KindRelease:
		err = a.standing.release(raw, s.ApprovedBy)
	case authority.KindRevocation:
		err = a.standing.revocation(raw)
	case authority.KindRollback:
		err = a.rollback(s.Name)
	case authority.KindSegments:
		err = a.onSegments(s.Name)
	}
	if err != nil {
		a.log.Debug("authority object", "kind", s.Kind, "name", s.Name, "err", err)
	}
}

// publish keeps what this node says of itself, and what it carries for its
// authority, in step with what is so.
func (a *App) publish(ctx context.Context) error {
	if err := a.leaf(trail.NodeStart, map[string]any{"version": a.version, "policy": a.engine.Revision(), "hold": string(a.cfg.Trail.Hold)}); err != nil {
		return err
	}
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for {
		ops, err := a.wanted()
		if err != nil {
			return err
		}
		if len(ops) > 0 {
			if _, err := a.replica.Put(ctx, ops...); err != nil && ctx.Err() == nil {
				a.log.Debug("publish", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// wanted are the ops that make the node's own keys what they should be.
func (a *App) wanted() (ops []feed.Op, err error) {
	want := func(kind, name string, scope feed.Scope, value []byte) {
		key := feed.KeyOf(a.cfg.Node, kind, name)
		if e, ok := a.replica.Get(key); ok && slices.Equal(e.Value, value) {
			return
		}
		ops = append(ops, feed.Op{Key: key, Action: feed.Put, Value: value, Scope: scope})
	}
	encode := func(v any) []byte {
		b, merr := statement.Marshal(v)
		err = errors.Join(err, merr)
		return b
	}
	td := a.cfg.Node.TrustDomain()
	news := a.news()
	want(feed.KindNode, nodeName, feed.ScopeRegion, encode(nodeRecord{
		Address: a.cfg.Mesh.Advertise.String(), Region: a.dir.region(td), Roles: a.roles(), Version: a.version, Policy: a.engine.Revision(),
		Entries: news.entries, Trust: news.trust,
	}))
	for _, s := range a.cfg.Services {
		want(feed.KindService, s.Name, feed.ScopeRegion, encode(serviceRecord{Workload: s.Workload.String(), Healthy: true}))
	}
	if a.authority != nil {
		for _, o := range a.authority.Objects() {
			want(feed.KindAuthority, objectName(o), feed.ScopeRegion, o.Raw)
		}
	}
	if a.gateway != nil {
		a.wantForeign(want)
	}
	want(feed.KindGeneration, policyKey, feed.ScopeRegion, encode(a.generation()))
	a.wantTrail(want, encode)
	gone := a.carriedPolicy(want)
	ops = append(ops, gone...)
	over, aerr := a.wantAccusations(want)
	ops, err = append(ops, over...), errors.Join(err, aerr)
	if len(ops) > maxOps {
		ops = ops[:maxOps] // the rest a second later
	}
	return ops, err
}

// maxOps is the most that one write of publish holds, below feed's bound.
const maxOps = 64

// wantForeign carries into this region what other regions' gateways and
// authorities signed. Summaries come every two seconds: only what says something
// else than the one carried is worth a record.
func (a *App) wantForeign(want func(kind, name string, scope feed.Scope, value []byte)) {
	for _, e := range a.summaries.Regions() {
		if e.Gateway.TrustDomain() == a.cfg.Node.TrustDomain() {
			continue
		}
		key := feed.KeyOf(a.cfg.Node, feed.KindSummary, e.Region)
		if held, ok := a.replica.Get(key); ok && time.Since(held.HLC.Time()) < carryEvery && !a.differs(held.Value, e.Summary) {
			continue
		}
		want(feed.KindSummary, e.Region, feed.ScopeRegion, e.Raw)
	}
	for _, r := range a.trust.Regions() {
		if r.TrustDomain == a.cfg.Node.TrustDomain() {
			continue
		}
		for _, o := range a.dir.book(r.TrustDomain).Objects() {
			want(feed.KindAuthority, r.Region+"."+objectName(o), feed.ScopeRegion, o.Raw)
		}
	}
}

func (a *App) roles() (out []string) {
	if a.issuing != nil {
		out = append(out, roleIssuer)
	}
	if a.authority != nil {
		out = append(out, roleAuth)
	}
	if a.gateway != nil {
		out = append(out, roleGateway)
	}
	return out
}

// watchTrust verifies live connections again when what they rest on changes.
// issued is from before the epoch was begun: no change in between is lost.
func (a *App) watchTrust(ctx context.Context, issued <-chan struct{}) error {
	trusted := a.trust.Changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-trusted:
			trusted = a.trust.Changed()
		case <-a.recheck:
		case <-issued:
			issued = a.creds.Changed()
			if err := a.beginEpochIfNew(ctx); err != nil {
				a.log.Error("epoch after renewal", "err", err)
			}
		}
		a.link.Recheck()
		a.data.recheck()
	}
}

// beginEpochIfNew follows the issuer to a renewed certificate or a new epoch.
func (a *App) beginEpochIfNew(ctx context.Context) error {
	h := a.creds.Now()
	if t := a.trail.current(); t != nil && t.Epoch() == h.InUse && !a.machine.Restored() {
		_, err := a.creds.Begin(ctx, a.replica, false)
		return err
	}
	return a.beginEpoch(ctx, false)
}
