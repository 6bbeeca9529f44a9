package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/reach"
)

// Reach computes the matrix with an engine of its own, so that its questions are in no
// count and no cache of the data path's.
func (h handler) Reach(ctx context.Context, req *controlv1.ReachRequest) (*controlv1.ReachResponse, error) {
	now := time.Now()
	roster, err := h.reachRoster(now).Narrow(req.Service, req.Caller, h.dir.region)
	if err != nil {
		return nil, h.coded(connect.CodeInvalidArgument, err)
	}
	engine := policy.New(policy.Config{Require: governing.Required})
	var levels []policy.Level
	for _, v := range h.policies.InForce() {
		levels = append(levels, v.Level())
	}
	if err := engine.Activate(levels...); err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	here := h.dir.region(h.cfg.Node.TrustDomain())
	m, err := reach.Compute(ctx, roster, func(self *policy.Peer) reach.Decider {
		if self.Region != here {
			return nil // another region has its own policy, which is not known here
		}
		return engine
	}, now)
	switch {
	case errors.Is(err, reach.ErrTooMany):
		return nil, h.coded(connect.CodeInvalidArgument, err)
	case err != nil:
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	resp := &controlv1.ReachResponse{View: h.view(ctx)}
	for _, part := range []struct {
		to   *string
		from any
	}{{&resp.MatrixJson, m}, {&resp.RosterJson, roster}} {
		b, err := json.Marshal(part.from)
		if err != nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("reach: %w", err))
		}
		*part.to = string(b)
	}
	return resp, nil
}

// reachRoster is what this node knows of who is where. Callers are the workloads of this
// node, those that an issuer has entries for, those that answer for services, and
// whoever the data of a policy names.
func (a *App) reachRoster(now time.Time) reach.Roster {
	r := reach.Roster{AsOf: now.UTC(), ViewOf: a.cfg.Node.String(), Nodes: []policy.Peer{*a.subjects.node(a.cfg.Node)}}
	known := map[string]bool{a.cfg.Node.String(): true}
	addNode := func(id spiffeid.ID) {
		if !known[id.String()] {
			known[id.String()] = true
			r.Nodes = append(r.Nodes, *a.subjects.node(id))
		}
	}
	for _, n := range a.dir.neighbours() {
		addNode(n.id)
	}
	callers := map[spiffeid.ID]map[string]bool{}
	addCaller := func(id, node spiffeid.ID) {
		if callers[id] == nil {
			callers[id] = map[string]bool{}
		}
		if known[node.String()] {
			callers[id][node.String()] = true
		}
	}
	for _, w := range a.creds.Now().Workloads {
		addCaller(w.SVID.ID, a.cfg.Node)
	}
	if s := a.issuer(); s != nil {
		if entries, err := s.Entries(); err == nil {
			for _, e := range entries {
				if len(e.Selectors) > 0 { // a workload's
					addCaller(e.SPIFFEID, e.ParentID)
				}
			}
		}
	}
	for _, region := range a.trust.Regions() {
		for _, o := range a.dir.book(region.TrustDomain).Objects() {
			s, err := o.Service()
			if err != nil {
				continue
			}
			service := reach.Service{Name: s.Name, Region: region.Region}
			for _, offer := range a.dir.offers(s.Name, region.Region) {
				addNode(offer.node)
				owner := reach.Owner{Node: offer.node.String()}
				switch {
				case !offer.workload.IsZero():
					owner.Workload = offer.workload.String()
					addCaller(offer.workload, offer.node)
				case len(s.IDs) == 1:
					owner.Workload = s.IDs[0].String()
				}
				service.Owners = append(service.Owners, owner)
			}
			for _, id := range s.IDs {
				addCaller(id, spiffeid.ID{})
			}
			r.Services = append(r.Services, service)
		}
	}
	for _, v := range a.policies.InForce() {
		for _, id := range reach.Named(v.Data) {
			if _, err := identity.ParseNode(id); err != nil { // a workload's
				addCaller(id, spiffeid.ID{})
			}
		}
	}
	for id, nodes := range callers {
		r.Callers = append(r.Callers, reach.Caller{SPIFFEID: id.String(), Region: a.dir.region(id.TrustDomain()), Nodes: slices.Sorted(maps.Keys(nodes))})
	}
	return r
}
