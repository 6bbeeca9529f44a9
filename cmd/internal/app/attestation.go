package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// status is what this node makes of a node's machine, in short; nil for nodes of
// other regions, whose evidence stays there.
func (p *appraisals) status(id spiffeid.ID) *controlv1.Attestation {
	if id.TrustDomain() != p.app.cfg.Node.TrustDomain() || p.interval == 0 {
		return nil
	}
	is, now := p.of(id), time.Now()
	m := &controlv1.Attestation{Ok: is.found == "", Rule: is.found, Detail: is.detail, AgeSeconds: -1, Beacon: is.beacon.Number, BeaconAgeSeconds: -1}
	if !is.at.IsZero() {
		m.AgeSeconds = max(0, now.Sub(is.at).Seconds())
	}
	if is.beacon.Number > 0 {
		m.BeaconAgeSeconds = max(0, now.Sub(is.beacon.At).Seconds())
	}
	return m
}

// ListAttestations tells what this node makes of the machines of its region.
func (h handler) ListAttestations(ctx context.Context, req *controlv1.ListAttestationsRequest) (*controlv1.ListAttestationsResponse, error) {
	resp := &controlv1.ListAttestationsResponse{View: h.view(ctx)}
	nodes := []spiffeid.ID{h.cfg.Node}
	for _, n := range h.dir.neighbours() {
		nodes = append(nodes, n.id)
	}
	slices.SortFunc(nodes, func(a, b spiffeid.ID) int { return strings.Compare(a.String(), b.String()) })
	for _, id := range nodes {
		n, err := identity.ParseNode(id)
		if req.Node == "" || req.Node == id.String() || err == nil && req.Node == n.Name {
			resp.Items = append(resp.Items, h.nodeAttestation(id))
		}
	}
	if len(resp.Items) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%s knows no node %q in its region", h.cfg.Node, req.Node))
	}
	return resp, nil
}

func (h handler) nodeAttestation(id spiffeid.ID) *controlv1.NodeAttestation {
	is := h.attesting.of(id)
	m := &controlv1.NodeAttestation{
		SpiffeId: id.String(), AttestedBy: h.attestation(id).kind, Attestation: h.attesting.status(id),
		Pcrs: map[string]string{}, Digests: map[string]*controlv1.Digests{},
	}
	if m.AttestedBy != "tpm" {
		return m
	}
	m.Checks = h.checks(is)
	if !is.proven {
		return m
	}
	c, boot := is.claims, is.claims.Boot
	m.EkSha256, m.EkMaker, m.EndorsementExpires = is.ekHash(), is.endorsement.Maker, timestamppb.New(is.endorsement.Expires)
	m.ResetCount, m.RestartCount, m.Firmware = c.ResetCount, c.RestartCount, strconv.FormatUint(c.Firmware, 16)
	m.SecureBoot, m.SecureBootOff, m.CommandLines = boot.SecureBoot, boot.SecureBootOff, boot.CommandLines
	for i, d := range c.PCRs {
		m.Pcrs[strconv.Itoa(i)] = hex.EncodeToString(d[:])
	}
	for i, list := range boot.Digests {
		digests := &controlv1.Digests{}
		for _, d := range list {
			digests.Sha256 = append(digests.Sha256, d.String())
		}
		m.Digests[strconv.Itoa(i)] = digests
	}
	for _, i := range boot.Unexplained {
		m.Unexplained = append(m.Unexplained, uint32(i))
	}
	return m
}

// The outcomes of a check.
const (
	passed     = "passed"
	failed     = "failed"
	notReached = "not reached"
)

// checks are all that evidence is held against: those in code in their order, up to
// the one that failed, then every rule of policy.
func (h handler) checks(is appraised) (out []*controlv1.Check) {
	outcome := passed
	if is.at.IsZero() && is.rule == "" {
		outcome = notReached // there is no evidence
	}
	for _, rule := range evidenceRules() {
		m := &controlv1.Check{Rule: rule, By: "code", Outcome: outcome}
		if rule == is.rule {
			m.Outcome, m.Reason = failed, is.judgement.detail
			outcome = notReached
		}
		out = append(out, m)
	}
	for _, rule := range []string{ruleMissing, ruleStale} {
		if is.found == rule {
			out = append(out, &controlv1.Check{Rule: rule, By: "code", Outcome: failed, Reason: is.detail})
		}
	}
	held := map[string]bool{}
	for _, v := range is.decision.Verdicts {
		for _, r := range v.Rules {
			held[v.Level+"/"+r.ID] = true
		}
	}
	for _, r := range h.engine.Rules(policy.AttestNode) {
		m := &controlv1.Check{Rule: r.ID, By: r.Level, Outcome: notReached, Title: r.Title, Owner: r.Owner, File: r.File, Line: uint32(r.Line)}
		if is.proven {
			m.Outcome = passed
			if held[r.Level+"/"+r.ID] == r.Denies {
				m.Outcome = failed
			}
		}
		if m.Outcome == failed && !r.Denies {
			m.Outcome = notReached // an allow that does not hold objects to nothing
		}
		out = append(out, m)
	}
	return out
}
