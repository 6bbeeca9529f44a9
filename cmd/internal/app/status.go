package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// debtTimeout bounds how long a status waits for the replica's loop.
const debtTimeout = time.Second

// view is the head of every answer: whose it is, how old, what is known to be
// missing, and how long this node may go on.
func (a *App) view(ctx context.Context) *controlv1.View {
	now := time.Now()
	v := &controlv1.View{AsOf: timestamppb.New(now), ViewOf: a.cfg.Node.String(), Debt: &controlv1.Debt{Regions: a.regionDebts(now)}, Lease: &controlv1.Lease{}}
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	if d, err := a.replica.Debt(ctx); err == nil {
		v.Debt.Records, v.Debt.Bytes, v.Debt.OldestSeconds = d.Missing.Records, d.Missing.Bytes, d.Missing.Oldest.Seconds()
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
	debts := h.debts(ctx)
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
	policies := map[string]*controlv1.NodePolicy{}
	for _, n := range h.nodePolicies(time.Now()) {
		policies[n.id.String()] = n.message()
	}
	uses := h.linkUses(ctx)
	for _, m := range resp.Peers {
		m.Policy = policies[m.SpiffeId]
		if d, ok := debts[m.SpiffeId]; ok {
			m.MissingRecords, m.MissingBytes, m.MissingSeconds = d.Missing.Records, d.Missing.Bytes, d.Missing.Oldest.Seconds()
			m.OwedRecords, m.OwedBytes, m.OwedSeconds = d.Owed.Records, d.Owed.Bytes, d.Owed.Oldest.Seconds()
		}
		if use, ok := uses[m.SpiffeId]; ok {
			m.Mode, m.Budget, m.SentBytes, m.WaitingBytes = use.Terms.Mode.String(), use.Terms.Budget, use.Sent, use.Waiting
		}
	}
	resp.Self.PeersUp, resp.Self.PeersKnown = uint32(len(up)), uint32(len(resp.Peers))
	for _, e := range h.summaries.Regions() {
		m := &controlv1.RegionSummary{
			Region: e.Region, TrustDomain: e.Gateway.TrustDomain().Name(), Gateway: e.Gateway.String(), Number: e.Number,
			At: timestamppb.New(e.At), Nodes: map[string]uint32{}, Frontier: hex.EncodeToString(e.Frontier[:]),
			Policy: e.Policy, Drift: &controlv1.PolicyDrift{Nodes: uint32(e.Members()), Behind: uint32(e.Behind)},
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

// debts are what is missing here and owed, by peer.
func (h handler) debts(ctx context.Context) map[string]replica.PeerDebt {
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	d, err := h.replica.Debt(ctx)
	if err != nil {
		return nil
	}
	out := make(map[string]replica.PeerDebt, len(d.Peers))
	for _, p := range d.Peers {
		out[p.Peer.String()] = p
	}
	return out
}

// linkUses are what the gossip sessions run under and use, by peer.
func (h handler) linkUses(ctx context.Context) map[string]replica.LinkUse {
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	uses := map[string]replica.LinkUse{}
	if all, err := h.replica.Links(ctx); err == nil {
		for _, use := range all {
			uses[use.Peer.String()] = use
		}
	}
	return uses
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
		Identity: &controlv1.Identity{AttestedBy: h.attestation(h.cfg.Node).kind}, Feed: &controlv1.Feed{}, Policy: &controlv1.Policy{Revision: h.engine.Revision()},
	}
	if n, err := identity.ParseNode(h.cfg.Node); err == nil {
		self.Zone = n.Zone
	}
	if h.machine.Attested() {
		self.Identity.Attestation = h.attesting.status(h.cfg.Node)
		self.Identity.NodeKey = h.machine.KeyMode()
		if att := self.Identity.Attestation; att != nil && !att.Ok {
			self.Warnings = append(self.Warnings, "peers refuse this machine's evidence by rule "+att.Rule+": "+att.Detail)
		}
	}
	held := h.creds.Now()
	if held.Node != nil {
		until := held.Node.Certificates[0].NotAfter
		self.Identity.SvidExpires, self.Identity.SvidRemainingSeconds = timestamppb.New(until), until.Sub(now).Seconds()
	} else {
		self.Warnings = append(self.Warnings, "no identity yet")
	}
	if overdue, err := h.creds.Trouble(); err != nil {
		self.Identity.LastError = err.Error()
		self.Identity.Stale = !overdue.IsZero()
		self.Warnings = append(self.Warnings, "renewal fails: "+err.Error())
	}
	for _, id := range h.standing.set.Capped(now, h.standing.roster()) {
		self.Warnings = append(self.Warnings, fmt.Sprintf("sessions with %s are kept, because as many as may be were cut in 10 minutes: a fault in the software looks like many guilty nodes; bailiwick quarantine show says what it did", id))
	}
	for _, p := range h.replica.Parked() {
		self.Warnings = append(self.Warnings, fmt.Sprintf("record %d of %s crashed this node and is not applied (BW6056): bailiwick quarantine release %.12s tries it again; it said: %s",
			p.Seq, p.Feed, p.Record, p.Detail))
	}
	if !h.machine.Attested() {
		self.Warnings = append(self.Warnings, "unattested: this node has no TPM")
	}
	if renewed := h.machine.Renewed(); renewed != "" {
		self.Warnings = append(self.Warnings, renewed)
	}
	if h.machine.Restored() {
		self.Feed.Rewound = true
		self.Warnings = append(self.Warnings, "this disk was restored: the feed is read-only until a new epoch")
	}
	self.Feed.Epoch = held.InUse
	ctx, cancel := context.WithTimeout(ctx, debtTimeout)
	defer cancel()
	if frontier, root, err := h.replica.Frontier(ctx); err == nil {
		self.Feed.Frontier = hex.EncodeToString(root[:])
		origins := map[spiffeid.ID]bool{}
		for f, head := range frontier {
			origins[f.Origin] = true
			if f.Origin == h.cfg.Node && f.Epoch == held.InUse {
				self.Feed.Seq = head.Seq
			}
		}
		self.Feed.Origins = uint32(len(origins))
	}
	if cert, ok := h.verify.of(h.cfg.Node); ok {
		self.Identity.EpochExpires = timestamppb.New(cert.NotAfter)
	}
	for _, r := range h.trust.Regions() {
		self.Warnings = append(self.Warnings, ending("the trust record of region "+r.Region, r.NotAfter, now)...)
	}
	self.Policy.Shadow, _ = h.shadowStatus()
	for _, x := range h.rolling.Progress() {
		m := rolloutMessage(x)
		self.Policy.Rollouts = append(self.Policy.Rollouts, m)
		if m.Reason != "" {
			self.Warnings = append(self.Warnings, fmt.Sprintf("the rollout of %s was stopped here: %s: a newer version ends that", x.Record.Record.String(), m.Reason))
		}
	}
	for _, v := range h.policies.InForce() {
		self.Warnings = append(self.Warnings, ending("the "+v.Record.Level+" policy", v.NotAfter, now)...)
		self.Policy.Levels = append(self.Policy.Levels, &controlv1.PolicyLevel{
			Level: v.Record.Level, Revision: fmt.Sprint(v.Record.Version), NotAfter: timestamppb.New(v.NotAfter), Scope: v.Record.Scope,
			StaleMode: v.Record.StaleMode, StaleInSeconds: staleIn(v.Record.Staleness(h.lease.quiet(now))),
		})
	}
	if room, err := h.decisions.Room(); err == nil {
		self.Policy.Decisions = &controlv1.DecisionLog{Files: uint64(room.Files), Bytes: uint64(room.Bytes), MaxBytes: uint64(room.MaxBytes),
			Hold: room.Hold, Kept: room.Kept, Gone: room.Gone}
	}
	nodes, behind := h.policyDrift(now)
	self.Policy.Drift = &controlv1.PolicyDrift{Nodes: uint32(nodes), Behind: uint32(behind)}
	self.Policy.Waiting, self.Policy.Refused = h.policiesWaiting(), h.policiesRefused()
	for _, m := range append(self.Policy.Waiting, self.Policy.Refused...) {
		self.Warnings = append(self.Warnings, fmt.Sprintf("%s policy of %s, version %d, is %s: %s", m.Level, m.Scope, m.Version, m.State, m.Reason))
	}
	trail, warnings := h.trailStatus(ctx)
	self.Trail, self.Warnings = trail, append(self.Warnings, warnings...)
	return self
}

// endingSoon is how long before its end something that is signed offline is warned of.
const endingSoon = 30 * 24 * time.Hour

// ending warns of what has to be signed anew by somebody with an offline key.
func ending(what string, end, now time.Time) []string {
	switch left := end.Sub(now); {
	case left <= 0:
		return []string{fmt.Sprintf("%s ended %s: nothing rests on it any more", what, end.UTC().Format(time.DateOnly))}
	case left < endingSoon:
		return []string{fmt.Sprintf("%s ends %s, in %d days: have a new one signed", what, end.UTC().Format(time.DateOnly), int(left/(24*time.Hour)))}
	}
	return nil
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
	if m.AttestedBy = h.attestation(id).kind; m.AttestedBy == "tpm" {
		m.Attestation = h.attesting.status(id)
	}
	return m
}

// staleIn is a staleness for the API: seconds left, negative without a bound.
func staleIn(s bundle.Staleness) float64 {
	if !s.Bounded {
		return -1
	}
	return s.Left.Seconds()
}
