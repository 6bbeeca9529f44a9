package app

import (
	"cmp"
	"context"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// openShadow brings back the candidate that was compared when the node stopped, and connects what takes
// staged policy forward with this node.
func (a *App) openShadow() (err error) {
	if a.shadowing, err = governing.OpenShadowing(a.policies, a.isolated, a.metrics, a.log); err != nil {
		return err
	}
	a.rolling = governing.NewRolling(a.policies, a.shadowing, governing.Fleet{
		Node: a.rolloutNode, Peers: a.rolloutPeers, Behind: a.lacksState, Taken: a.policyTaken, Settled: a.settledPolicy, Offer: a.offerOvertaken,
	}, a.log)
	return nil
}

// rolloutNode is what tells this node's ring.
func (a *App) rolloutNode() rollout.Node {
	id := a.cfg.Node
	n := rollout.Node{ID: id.String(), Path: id.Path(), Class: cmp.Or(a.creds.Now().Class, "node")}
	if parsed, err := identity.ParseNode(id); err == nil {
		n.Zone = parsed.Zone
	}
	return n
}

// lacksState reports whether this node knows of state that it lacks, or cannot tell.
func (a *App) lacksState(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	debt, err := a.replica.Debt(ctx)
	return err != nil || debt.Missing.Records > 0
}

// rolloutPeers are the other nodes of a record's scope, by their signed records, and what they say
// of it: without those that are shut out. The mesh is rolled out region by region: each looks at its own nodes.
func (a *App) rolloutPeers(k bundle.Kept) (out []rollout.Peer) {
	said := map[string]generationRecord{}
	for _, e := range a.replica.Named(feed.KindGeneration, policyKey) {
		if g, err := parseGeneration(e.Name, e.Value); err == nil {
			said[e.Owner.String()] = g
		}
	}
	for _, e := range a.replica.Named(feed.KindNode, nodeName) {
		n, err := identity.ParseNode(e.Owner)
		if err != nil || e.Owner == a.cfg.Node || e.Owner.TrustDomain() != a.cfg.Node.TrustDomain() ||
			k.Record.Level == policy.Local && governing.LocalScope(e.Owner) != k.Record.Scope || a.standing.admits(e.Owner) != nil {
			continue
		}
		p := rollout.Peer{
			Node:  rollout.Node{ID: e.Owner.String(), Path: e.Owner.Path(), Zone: n.Zone, Class: cmp.Or(a.attestation(e.Owner).class, "node")},
			Heard: e.Lease == feed.LeaseLive,
		}
		for _, l := range said[p.ID].Levels {
			if l.Level == k.Record.Level {
				p.Enforces = l.Name
			}
		}
		for _, w := range said[p.ID].Rollouts {
			if w.Name == [8]byte(k.Name[:]) {
				p.State, p.Soaked = w.state(), w.Soaked
			}
		}
		out = append(out, p)
	}
	return out
}
