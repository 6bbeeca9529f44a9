package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// rings holds a plan against the nodes that the node asked knows of its region: those after a ring
// that fits none wait for ever.
func (p *publication) rings(ctx context.Context, next provision.Policy) error {
	t, err := p.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.ListPolicies(ctx, &controlv1.ListPoliciesRequest{})
	if err != nil {
		return t.reached(err)
	}
	var nodes []rollout.Node
	for _, m := range resp.Nodes {
		id, err := spiffeid.FromString(m.SpiffeId)
		if err != nil {
			return err
		}
		n := rollout.Node{ID: id.String(), Path: id.Path()}
		if parsed, err := identity.ParseNode(id); err == nil {
			n.Zone = parsed.Zone
		}
		if td := id.TrustDomain().Name(); next.Level != policy.Local || next.Scope == td+n.Path || next.Scope == td+"/zone/"+n.Zone {
			nodes = append(nodes, n)
		}
	}
	text, empty := ringText(next.Rollout, next.Version, nodes)
	if len(empty) > 0 && !p.force {
		return &usageError{fmt.Errorf("the plan's rings have %s: no node is in %s, and whoever comes after would wait for one that joins: correct the plan, or publish with --force", text, strings.Join(empty, ", "))}
	}
	p.about = strings.TrimPrefix(p.about+"; rings: "+text, "; ")
	return nil
}

// ringText says how many nodes each ring has, and names those that have none. Limits classes are not
// known here: a ring that goes by them is not called empty.
func ringText(plan *rollout.Plan, version uint64, nodes []rollout.Node) (text string, empty []string) {
	counts := make([]int, len(plan.Rings)+1)
	for _, ring := range plan.Assign(version, nodes) {
		counts[ring]++
	}
	var parts []string
	for i, n := range counts {
		switch {
		case i < len(plan.Rings) && len(plan.Rings[i].Classes) > 0:
			parts = append(parts, fmt.Sprintf("%s %d or more nodes", plan.Name(i), n))
			continue
		case i < len(plan.Rings) && n == 0:
			empty = append(empty, plan.Name(i))
		}
		parts = append(parts, fmt.Sprintf("%s %d nodes", plan.Name(i), n))
	}
	return strings.Join(parts, ", "), empty
}
