package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// debtTimeout bounds how long a status waits for the replica's loop.
const debtTimeout = time.Second

// view is the head of every answer: whose it is, how old, what is known to be
// missing, and how long this node may go on.
func (a *App) view(ctx context.Context) *controlv1.View {
	now := time.Now()
	v := &controlv1.View{AsOf: timestamppb.New(now), ViewOf: a.cfg.Node.String(), Debt: &controlv1.Debt{Regions: map[string]*controlv1.RegionDebt{}}, Lease: &controlv1.Lease{}}
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	if d, err := a.replica.Debt(ctx); err == nil {
		v.Debt.Records, v.Debt.Bytes, v.Debt.OldestSeconds = d.Missing.Records, d.Missing.Bytes, d.Missing.Oldest.Seconds()
	}
	for _, r := range a.trust.Regions() {
		if r.TrustDomain == a.cfg.Node.TrustDomain() {
			continue
		}
		debt := &controlv1.RegionDebt{HeardSeconds: -1}
		if e, ok := a.summaries.Region(r.TrustDomain); ok {
			debt.HeardSeconds = now.Sub(e.At).Seconds()
		}
		if a.gateway != nil {
			for _, owed := range a.gateway.Debt() {
				if owed.Peer.TrustDomain() == r.TrustDomain {
					debt.Summaries = max(debt.Summaries, owed.Owed)
				}
			}
		}
		v.Debt.Regions[r.Region] = debt
	}
	status, record, fresh := a.lease.status(now)
	v.Lease.RemainingSeconds, v.Lease.DegradedMode = status.Remaining.Seconds(), string(record.Lease.Degraded)
	switch {
	case status.Remaining == 0 && !status.Unlimited:
		v.Lease.Mode = string(status.Mode)
	case fresh:
		v.Lease.Mode = "connected"
	default:
		v.Lease.Mode = "isolated"
	}
	return v
}

// Status tells what this node knows of itself and of others.
func (h handler) Status(ctx context.Context, _ *controlv1.StatusRequest) (*controlv1.StatusResponse, error) {
	resp := &controlv1.StatusResponse{View: h.view(ctx), Self: h.selfStatus(ctx)}
	up := map[spiffeid.ID]link.Peer{}
	for _, p := range h.link.Peers() {
		up[p.ID] = p
	}
	seen := map[spiffeid.ID]bool{}
	for _, n := range h.dir.neighbours() {
		seen[n.id] = true
		resp.Peers = append(resp.Peers, h.peerStatus(n.id, n.addr.String(), up))
	}
	for id, p := range up {
		if !seen[id] {
			seen[id] = true
			resp.Peers = append(resp.Peers, h.peerStatus(id, p.Addr.String(), up))
		}
	}
	if len(h.cfg.Mesh.Gateways) > 0 { // a gateway misses those of other regions while cut off
		for _, e := range h.summaries.Regions() {
			if id := e.Gateway; id.TrustDomain() != h.cfg.Node.TrustDomain() && !seen[id] {
				seen[id] = true
				resp.Peers = append(resp.Peers, h.peerStatus(id, "", up))
			}
		}
	}
	sortPeers(resp.Peers)
	resp.Self.PeersUp, resp.Self.PeersKnown = uint32(len(up)), uint32(len(resp.Peers))
	for _, e := range h.summaries.Regions() {
		m := &controlv1.RegionSummary{
			Region: e.Region, TrustDomain: e.Gateway.TrustDomain().Name(), Gateway: e.Gateway.String(), Number: e.Number,
			At: timestamppb.New(e.At), Nodes: map[string]uint32{}, Frontier: hex.EncodeToString(e.Frontier[:]),
		}
		for standing, n := range e.Nodes {
			m.Nodes[standing] = uint32(n)
		}
		resp.Regions = append(resp.Regions, m)
	}
	for _, r := range h.trust.Regions() {
		for _, o := range h.dir.book(r.TrustDomain).Objects() {
			if s, err := o.Service(); err == nil {
				resp.Services = append(resp.Services, h.serviceStatus(s.Name, r.Region, s.IDs))
			}
		}
	}
	return resp, nil
}

func (h handler) serviceStatus(name, region string, ids []spiffeid.ID) *controlv1.Service {
	m := &controlv1.Service{Name: name, Region: region}
	for _, id := range ids {
		m.Workloads = append(m.Workloads, id.String())
	}
	for _, o := range h.dir.offers(name, region) {
		m.Owners = append(m.Owners, o.node.String())
		if o.healthy {
			m.Healthy++
		}
	}
	return m
}

func (h handler) selfStatus(ctx context.Context) *controlv1.NodeStatus {
	now := time.Now()
	self := &controlv1.NodeStatus{
		SpiffeId: h.cfg.Node.String(), Region: h.dir.region(h.cfg.Node.TrustDomain()), Standing: h.standing.of(h.cfg.Node).Standing.String(),
		Address: h.cfg.Mesh.Advertise.String(), Version: h.version, Roles: h.roles(),
		Identity: &controlv1.Identity{AttestedBy: "token"}, Feed: &controlv1.Feed{}, Policy: &controlv1.Policy{Revision: h.engine.Revision()}, Trail: &controlv1.Trail{},
	}
	if n, err := identity.ParseNode(h.cfg.Node); err == nil {
		self.Zone = n.Zone
	}
	if h.machine.attested() {
		self.Identity.AttestedBy, self.Identity.Attestation = "tpm", h.attesting.status(h.cfg.Node)
		self.Identity.NodeKey = h.machine.keyMode()
		if att := self.Identity.Attestation; att != nil && !att.Ok {
			self.Warnings = append(self.Warnings, "peers refuse this machine's evidence by rule "+att.Rule+": "+att.Detail)
		}
	}
	held := h.creds.now()
	if held.node != nil {
		until := held.node.Certificates[0].NotAfter
		self.Identity.SvidExpires, self.Identity.SvidRemainingSeconds = timestamppb.New(until), until.Sub(now).Seconds()
	} else {
		self.Warnings = append(self.Warnings, "no identity yet")
	}
	if overdue, err := h.creds.trouble(); err != nil {
		self.Identity.LastError = err.Error()
		self.Identity.Stale = !overdue.IsZero()
		self.Warnings = append(self.Warnings, "renewal fails: "+err.Error())
	}
	if !h.machine.attested() {
		self.Warnings = append(self.Warnings, "unattested: this node has no TPM")
	}
	if h.machine.restored.Load() {
		self.Feed.Rewound = true
		self.Warnings = append(self.Warnings, "this disk was restored: the feed is read-only until a new epoch")
	}
	self.Feed.Epoch = held.inUse
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	if frontier, root, err := h.replica.Frontier(ctx); err == nil {
		self.Feed.Frontier = hex.EncodeToString(root[:])
		origins := map[spiffeid.ID]bool{}
		for f, head := range frontier {
			origins[f.Origin] = true
			if f.Origin == h.cfg.Node && f.Epoch == held.inUse {
				self.Feed.Seq = head.Seq
			}
		}
		self.Feed.Origins = uint32(len(origins))
	}
	if cert, ok := h.verify.of(h.cfg.Node); ok {
		self.Identity.EpochExpires = timestamppb.New(cert.NotAfter)
	}
	for _, v := range h.levels {
		self.Policy.Levels = append(self.Policy.Levels, &controlv1.PolicyLevel{
			Level: v.Record.Level, Revision: fmt.Sprint(v.Record.Version), NotAfter: timestamppb.New(v.NotAfter),
		})
	}
	if t := h.trail.current(); t != nil {
		head := t.Head()
		self.Trail.Size, self.Trail.Root, self.Trail.At, self.Trail.Witnessed = head.Size, hex.EncodeToString(head.Root[:]), timestamppb.New(head.At), !head.Unwitnessed
		if err := t.Err(); err != nil {
			self.Warnings = append(self.Warnings, "trail: "+err.Error())
		}
	}
	if n, err := h.store.Pending(); err == nil {
		self.Trail.Outbox = uint64(n)
	}
	return self
}

func (h handler) peerStatus(id spiffeid.ID, addr string, up map[spiffeid.ID]link.Peer) *controlv1.PeerStatus {
	st := h.standing.of(id)
	m := &controlv1.PeerStatus{SpiffeId: id.String(), Standing: st.Standing.String(), Reason: st.Reason, Address: addr, Hint: h.serf.hint(id), StateAgeSeconds: -1}
	if p, ok := up[id]; ok {
		m.Connected, m.RttMs = true, float64(p.RTT.Microseconds())/1000
	}
	if at, ok := h.dir.heard(h.replica, id); ok {
		m.StateAgeSeconds = max(0, time.Since(at).Seconds())
	}
	if att := h.attestation(id); att.kind == "tpm" {
		m.AttestedBy, m.Attestation = att.kind, h.attesting.status(id)
	}
	return m
}
