package app

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// ShowCase verifies a case's evidence again, and tells what it shows and what happened here.
func (h handler) ShowCase(ctx context.Context, req *controlv1.ShowCaseRequest) (*controlv1.ShowCaseResponse, error) {
	c, err := h.find(req.Id)
	if err != nil {
		return nil, err
	}
	resp := &controlv1.ShowCaseResponse{View: h.view(ctx), Case: h.caseMessage(c), Verified: true, Verdict: "the proof holds"}
	if len(c.Evidence) == 0 {
		resp.Verdict = "nothing here is a proof, and nothing need be: " + cmp.Or(c.Status.Reason, "nobody's word counts now")
	}
	for _, e := range c.Evidence {
		if resp.Evidence == nil || strings.HasPrefix(hex.EncodeToString(e.Digest[:]), req.Id) {
			resp.Evidence = e.Bytes
		}
		resp.Story = append(resp.Story, h.proofStory(e)...)
		if _, err := h.standing.set.Verify(c.Accused, e.Digest); err != nil {
			resp.Verified, resp.Verdict = false, err.Error()
		}
	}
	resp.Story = append(resp.Story, accusationStory(c.Tally)...)
	resp.Story = append(resp.Story, h.appeals().story(c)...)
	resp.Story = append(resp.Story, "here "+h.standing.set.Effects(c.Accused, time.Now(), h.standing.roster()).String())
	resp.Events = h.events(c)
	return resp, nil
}

// proofStory tells what one piece of evidence shows: what was sent, and which rule that broke.
func (h handler) proofStory(e quarantine.Evidence) []string {
	out := []string{fmt.Sprintf("proof %x of %d bytes: %s in epoch %d", e.Digest[:8], len(e.Bytes), e.Class, e.Epoch)}
	if e.Bytes == nil {
		return append(out, "  what it shows is not kept on this node")
	}
	p, err := casefile.Explain(e.Bytes, h.verify.key, h.trust.AuthorityKey)
	if err != nil {
		return append(out, "  it shows nothing: "+err.Error())
	}
	for _, s := range p.Shown {
		out = append(out, "  signed     "+s)
	}
	return append(out, "  by         "+p.SignedBy, "  broken     "+p.Rule, "  therefore  "+p.Counts)
}

// events are what this node saw and did in a case, with when, the oldest first.
func (h handler) events(c quarantine.Case) (out []*controlv1.CaseEvent) {
	add := func(at time.Time, format string, args ...any) {
		out = append(out, &controlv1.CaseEvent{At: timestamppb.New(at), What: fmt.Sprintf(format, args...)})
	}
	for _, e := range c.Evidence {
		found := "found it itself"
		if len(e.By) > 0 && !slices.Contains(e.By, h.cfg.Node) {
			found = "had it from " + e.By[0].String()
		}
		add(e.FirstSeen, "verified proof %x of %s: %s", e.Digest[:6], e.Class, found)
	}
	for _, charge := range c.Tally.Charges {
		add(charge.Seen, "%s saw it at fault: %s", charge.Accuser, charge.Class)
	}
	if c.Tally.Reached {
		add(c.Tally.Since, "%d of %d assigned observers accused it of %s: a quorum", c.Tally.Count, c.Tally.Observers, c.Tally.Class)
	}
	if was, ok := h.standing.lastCut(c.Accused); ok {
		add(was.At.Add(was.Took), "%s", was)
	}
	keys := h.dir.authorityKeys(c.Accused.TrustDomain())
	for _, raw := range c.Releases {
		if r, err := authority.OpenRelease(raw, c.Accused.TrustDomain(), keys); err == nil {
			add(r.At, "the authority released it from epoch %d on: %s", r.Epoch, r.Reason)
		}
	}
	if r, err := authority.OpenRevocation(c.Revocation, c.Accused.TrustDomain(), keys); err == nil {
		add(r.At, "the authority revoked it: %s", r.Reason)
	}
	if ap := h.appeals().pending(c); !ap.Accused.IsZero() {
		add(ap.At, "it appealed: %s", ap.Note)
	}
	slices.SortStableFunc(out, func(a, b *controlv1.CaseEvent) int { return a.At.AsTime().Compare(b.At.AsTime()) })
	return out
}
