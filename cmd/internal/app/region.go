package app

import (
	"context"
	"crypto"
	"fmt"
	"reflect"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// carryEvery is how often a summary that says nothing new is carried anew into
// this region: its age there is at most this much more than at the gateway.
const carryEvery = 15 * time.Second

// newGateway makes this node speak for its region to the gateways of others.
func (a *App) newGateway() (*summary.Gateway, error) {
	return summary.New(summary.Config{
		Self: a.cfg.Node, Store: a.store, Keys: a.summaryKey, Tracker: a.summaries,
		Signer:  func() (crypto.Signer, []byte) { return a.machine.Feed(), a.creds.EpochCert() },
		Content: a.regionContent,
		Statements: func() (out [][]byte) {
			for _, o := range a.dir.book(a.cfg.Node.TrustDomain()).Objects() {
				if o.Kind != authority.KindBeacon { // only its own region binds anything to it
					out = append(out, o.Raw)
				}
			}
			for _, k := range a.policies.Kept() {
				if k.Record.Level == policy.Global {
					out = append(out, k.Statement)
				}
			}
			return out
		},
		OnStatement: func(_ spiffeid.ID, raw []byte) error {
			if s, _ := a.dir.object(raw); s.Raw != nil {
				return nil
			}
			if r, err := bundle.ReadRecord(raw); err == nil && r.Level == policy.Global {
				return a.desk.Offer(raw, time.Now())
			}
			return fmt.Errorf("no authority known here signed it")
		},
		Log: a.log, Metrics: a.metrics,
	})
}

// summaryKey says who may sign a summary: nodes to which their own region gave
// the limits class of a gateway. A summary speaks for one trust domain only.
func (a *App) summaryKey(der []byte) (summary.Key, error) {
	c, err := a.verify.certificate(der)
	if err != nil {
		return summary.Key{}, err
	}
	if c.Class != roleGateway {
		return summary.Key{}, fmt.Errorf("%w: %s has limits class %q and is no gateway of its region", summary.ErrSigner, c.ID, c.Class)
	}
	if time.Now().After(c.NotAfter) {
		return summary.Key{}, fmt.Errorf("%w: the epoch certificate of %s has expired", summary.ErrSigner, c.ID)
	}
	return summary.Key{ID: c.ID, Epoch: c.Epoch, Public: c.Key}, nil
}

// regionContent is what a gateway says of its region now.
func (a *App) regionContent() summary.Content {
	td := a.cfg.Node.TrustDomain()
	c := summary.Content{Region: a.dir.region(td), Nodes: map[string]int{}, Policy: a.engine.Revision()}
	nodes := append(a.dir.neighbours(), neighbour{id: a.cfg.Node})
	for _, n := range nodes {
		c.Nodes[a.standing.of(n.id).Standing.String()]++
	}
	_, behind := a.policyDrift(time.Now())
	c.Behind = min(behind, c.Members()) // a node may have left between the two
	for _, name := range a.dir.serviceNames() {
		s := summary.Service{Name: name, IDs: a.dir.serviceIDs(name, c.Region)}
		for _, o := range a.dir.offers(name, c.Region) {
			if a.standing.admits(o.node) != nil {
				continue
			}
			s.Owners = append(s.Owners, summary.Owner{Node: o.node, Addr: o.addr})
			if o.healthy {
				s.Healthy++
			}
		}
		if len(s.Owners) > 0 {
			c.Services = append(c.Services, s)
		}
	}
	c.Frontier = a.frontierRoot()
	return c
}

// frontierRoot is the root over everything this node holds of its region.
func (a *App) frontierRoot() [32]byte {
	ctx, cancel := context.WithTimeout(context.Background(), debtTimeout)
	defer cancel()
	_, root, err := a.replica.Frontier(ctx)
	if err != nil {
		return [32]byte{}
	}
	return root
}

// differs reports whether a summary says something else than the carried one.
func (a *App) differs(carried []byte, s summary.Summary) bool {
	held, err := summary.Verify(carried, a.summaryKey)
	if err != nil {
		return true
	}
	before, after := held.Content, s.Content
	before.Frontier, after.Frontier = [32]byte{}, [32]byte{} // changes with every record
	return !reflect.DeepEqual(before, after)
}
