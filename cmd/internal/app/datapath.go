package app

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/mesh/route"
	"github.com/bailiwick-mesh/bailiwick/mesh/tunnel"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// meshSuffix ends every full service name: <service>.<region>.mesh.
const meshSuffix = ".mesh"

// maxForeign bounds the memory of nodes of other regions.
const maxForeign = 8192

// ErrLease means the autonomy lease has run out and its degraded mode forbids this.
var ErrLease = errors.New("the autonomy lease has run out: reach the region's authority again")

// dataPath connects the tunnels with who is who, who serves what, and policy.
type dataPath struct {
	app   *App
	proxy *tunnel.Proxy

	mu      sync.RWMutex // held for map work only
	foreign map[spiffeid.ID]policyAttestation
}

func (a *App) openDataPath() (err error) {
	d := &dataPath{app: a, foreign: map[spiffeid.ID]policyAttestation{}}
	a.data = d
	var listeners []tunnel.Listener
	for _, l := range a.cfg.Listeners {
		listeners = append(listeners, tunnel.Listener{Addr: l.Listen, Service: l.Service})
	}
	d.proxy, err = tunnel.Listen(tunnel.Config{
		Link: a.link, Bundles: a.trust, NodeSVID: a.creds.SVID(), Region: a.dir.region(a.cfg.Node.TrustDomain()), Listeners: listeners,
		Workload: d.workload, Resolve: d.resolve, Serve: d.serve, Node: d.app.standing.admits, Endorsed: d.endorse, Endorsement: func() []byte { return a.creds.Now().Endorsement },
		Peer:   func(id, node spiffeid.ID) policy.Peer { return *a.subjects.workload(id, node) },
		Decide: d.decide, Stay: d.stay, Refused: d.refused, Log: a.log, Metrics: a.metrics,
	})
	if err != nil {
		return err
	}
	a.onStop(d.proxy.Close)
	return nil
}

func (d *dataPath) run(ctx context.Context) error { return d.proxy.Run(ctx) }

func (d *dataPath) cut(node spiffeid.ID) (tunnels, connections int) { return d.proxy.Cut(node) }

func (d *dataPath) recheck() { d.proxy.Recheck() }

// workload says which identity a local process has: the first of the entries
// whose selectors it shows.
func (d *dataPath) workload(p *caller.Process) (*x509svid.SVID, error) {
	found := d.app.creds.Now().Identities(p.Shows)
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: %s (pid %d)", tunnel.ErrUnknownWorkload, p.Exe, p.PID)
	}
	return found[0].SVID, nil
}

// resolve says who serves a full service name.
func (d *dataPath) resolve(full string) (tunnel.Service, error) {
	name, region, ok := splitService(full)
	if !ok {
		return tunnel.Service{}, errors.New("want <service>.<region>.mesh")
	}
	s := tunnel.Service{Service: policy.Service{Name: name, Region: region, Protocol: "tcp"}, Allowed: d.app.dir.serviceIDs(name, region)}
	if len(s.Allowed) == 0 {
		return tunnel.Service{}, fmt.Errorf("no statement of the authority of region %q about it is known here", region)
	}
	rtt := map[spiffeid.ID]time.Duration{}
	for _, p := range d.app.link.Peers() {
		rtt[p.ID] = p.RTT
	}
	for _, o := range d.app.dir.offers(name, region) {
		workload := o.workload
		if workload.IsZero() && len(s.Allowed) == 1 {
			workload = s.Allowed[0]
		}
		owner := route.Owner{
			Place: route.Place{Node: o.node, Region: region}, Workload: workload, Addr: o.addr, RTT: rtt[o.node],
			Standing: d.app.standing.of(o.node).Standing, Health: route.Unhealthy,
		}
		if n, err := identity.ParseNode(o.node); err == nil {
			owner.Zone = n.Zone
		}
		if o.healthy {
			owner.Health = route.Healthy
		}
		s.Owners = append(s.Owners, owner)
	}
	return s, nil
}

func splitService(full string) (name, region string, ok bool) {
	rest, ok := strings.CutSuffix(full, meshSuffix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ".")
}

// serve says where this node serves a service.
func (d *dataPath) serve(full string) (tunnel.Target, error) {
	a := d.app
	name, region, ok := splitService(full)
	if ok && region == a.dir.region(a.cfg.Node.TrustDomain()) {
		for _, s := range a.cfg.Services {
			if s.Name != name {
				continue
			}
			svid, ok := a.creds.Now().Of(s.Workload)
			if !ok {
				return tunnel.Target{}, fmt.Errorf("%w: this node has no SVID of %s yet", tunnel.ErrNoTarget, s.Workload)
			}
			return tunnel.Target{Service: policy.Service{Name: name, Region: region, Protocol: "tcp"}, Addr: s.Target, SVID: svid}, nil
		}
	}
	return tunnel.Target{}, fmt.Errorf("%w: %s is not served here", tunnel.ErrNoTarget, full)
}

// endorse takes in what a node of another region shows of its attestation.
func (d *dataPath) endorse(node spiffeid.ID, leaf *x509.Certificate, endorsement []byte) {
	if node.TrustDomain() == d.app.cfg.Node.TrustDomain() {
		return // its epoch certificate says so in the region's own state
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.foreign) >= maxForeign {
		clear(d.foreign) // those that come again show it again
	}
	d.foreign[node] = d.judge(node, leaf, endorsement)
}

// judge checks an endorsement that a node of another region shows: its own
// authority's word that a TPM holds the very key it proved to have.
func (d *dataPath) judge(node spiffeid.ID, leaf *x509.Certificate, endorsement []byte) policyAttestation {
	unattested := policyAttestation{kind: "unattested", at: time.Now()}
	r, ok := d.app.trust.Record(node.TrustDomain())
	if !ok || len(endorsement) == 0 {
		return unattested
	}
	e, err := endorse.Verify(endorsement, r.AuthorityKey, node.TrustDomain(), time.Now())
	if err != nil || e.ID != node || e.NodeKey != sha256.Sum256(leaf.RawSubjectPublicKeyInfo) {
		return unattested
	}
	return policyAttestation{kind: "tpm", ok: true, at: leaf.NotBefore}
}

// endorsed is what nodes of other regions showed of their attestation.
func (d *dataPath) endorsed(id spiffeid.ID) policyAttestation {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.foreign[id]
}

// decide asks policy about a new connection and records the answer, unless the
// lease has run out.
func (d *dataPath) decide(ctx context.Context, in policy.Input) policy.Decision {
	return d.ask(ctx, in, authority.Mode.MayConnect)
}

// stay is decide for a connection that was admitted before.
func (d *dataPath) stay(ctx context.Context, in policy.Input) policy.Decision {
	said := d.ask(ctx, in, authority.Mode.MayStay)
	if said.Rule == policy.RuleStale { // but for that it would be allowed, and that is about new ones
		said.Allow = true
	}
	return said
}

func (d *dataPath) ask(ctx context.Context, in policy.Input, may func(authority.Mode) bool) policy.Decision {
	in.Time.Trusted = true
	if status, _, _ := d.app.lease.status(time.Now()); !may(status.Mode) {
		return d.unasked(in, policy.Decision{At: time.Now(), Rule: "lease-" + string(status.Mode), Reason: ErrLease.Error()})
	}
	return d.app.decisions.Decide(ctx, in)
}

// refused records what was refused before policy was asked.
func (d *dataPath) refused(r tunnel.Refusal) {
	if r.Recorded {
		return
	}
	in := policy.Input{V: policy.InputVersion, Kind: policy.Connect, Source: &policy.Peer{SPIFFEID: r.Workload.String()}}
	if n, err := identity.ParseNode(d.app.cfg.Node); err == nil && r.Side == tunnel.Source {
		in.Source.Node = n.Name
	}
	if name, region, ok := splitService(r.Service); ok {
		in.Service = &policy.Service{Name: name, Region: region, Protocol: "tcp"}
	}
	d.unasked(in, policy.Decision{At: r.At, Rule: "refused-at-" + string(r.Side), Reason: r.Cause.Error()})
}

// unasked records a denial that policy was not asked about, with what it would
// have been asked.
func (d *dataPath) unasked(in policy.Input, denial policy.Decision) policy.Decision {
	denial.ID, denial.Kind, denial.Revision = policy.NewID(), in.Kind, d.app.engine.Revision()
	if in.Source != nil {
		denial.Source = in.Source.SPIFFEID
	}
	if in.Service != nil {
		denial.Target = in.Service.Name + "." + in.Service.Region
	}
	denial.Input, _ = json.Marshal(in) // strings and numbers only
	return d.app.decisions.Record(denial)
}
