package casefile

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// shownHead is a head of a trail, with what its cosignatures say by the roster in the case file.
// Who vouches for the witnesses' keys is for Verify.
type shownHead struct {
	trail.Checkpoint
	witness.Verdict
}

// shownHeads are the heads of a trail, by size; the last is the one that proves the leaves.
func (c Case) shownHeads(n int, last trail.Checkpoint) (out []shownHead, err error) {
	var heads []trail.Checkpoint
	if len(c.Seen) > n {
		for _, s := range sortedSeen(c.Seen[n]) {
			raw, err := trail.EarlierHead(s.Raw)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrEntry, err)
			}
			h, err := trail.PeekCheckpoint(raw)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrEntry, err)
			}
			h.Raw = raw
			heads = append(heads, h)
		}
	}
	for _, h := range append(heads, last) {
		out = append(out, shownHead{h, witness.Judge(h, c.roster)})
	}
	return out, nil
}

// roster finds the roster that a head names.
func (c Case) roster(hash [32]byte) (witness.Roster, bool) {
	for _, b := range c.Rosters {
		if sha256.Sum256(b) == hash {
			r, err := witness.ParseRoster(b)
			return r, err == nil
		}
	}
	return witness.Roster{}, false
}

// seenBy is when the first of the heads that cover a leaf was witnessed; zero: none was.
func seenBy(heads []shownHead, index uint64) (at time.Time) {
	for _, h := range heads {
		if h.Good && h.Size > index && (at.IsZero() || h.Verdict.Seen.Before(at)) {
			at = h.Verdict.Seen
		}
	}
	return at
}

// heads writes who cosigned what of a trail, and when.
func (p *page) heads(list []shownHead) {
	witnessed := uint64(0)
	for _, h := range list {
		if h.Good {
			witnessed = max(witnessed, h.Size)
		}
	}
	last := list[len(list)-1]
	if witnessed == 0 {
		p.put("<p><span class=\"deny\">No witness stands for this trail.</span> Its head has the node's own signature alone: %s. Another history could have\nbeen shown elsewhere.</p>\n", last.Why)
		return
	}
	p.put("<p>Other nodes, the trail's witnesses, signed these heads as well. A witness signs one history only, so what is under such a\nhead was there by the time given and has not been another since. Who they are is what the rosters in this file say; verify holds\nthat, and who vouches for their keys, against your trust file.</p>\n")
	p.put("<table>\n<thead><tr><th>Leaves</th><th>There by (UTC)</th><th>Who signed the head, and when by their own clocks</th></tr></thead>\n<tbody>\n")
	for _, h := range list {
		if !h.Good {
			continue
		}
		p.put("<tr><td class=\"when\">0 to %d</td><td class=\"when\">%s</td><td>", h.Size-1, h.Verdict.Seen.UTC().Format(time.DateTime))
		for _, c := range h.By {
			p.put("%s at %s<br>", c.Witness.String(), c.At.UTC().Format(time.TimeOnly))
		}
		p.put("<span class=\"dim\">%d of its %d witnesses</span></td></tr>\n", len(h.By), witness.Chosen)
	}
	p.put("</tbody>\n</table>\n")
	if witnessed < last.Size {
		p.put("<p>The newest leaves, %d to %d, were not witnessed yet when this file was made: %s.</p>\n", witnessed, last.Size-1, last.Why)
	}
}

// row writes one fact.
func (p *page) row(f fact.Fact) {
	class, seen := "", "not witnessed"
	if f.Kind == trail.DecisionDeny.Name() || f.Kind == trail.PeerFinding.Name() {
		class = "deny"
	}
	if !f.Seen.IsZero() {
		seen = "seen by " + f.Seen.UTC().Format(time.TimeOnly)
		if f.Seen.UTC().Format(time.DateOnly) != f.At.UTC().Format(time.DateOnly) {
			seen = "seen by " + f.Seen.UTC().Format(time.DateTime)
		}
	}
	p.put("<tr><td class=\"when\">%s<br>%s<br><span class=\"dim\">%s</span></td><td><span class=\"%s\">%s</span><br><span class=\"dim\">%s</span></td><td class=\"when\">%s</td><td class=\"num\">%d</td></tr>\n",
		f.At.UTC().Format(time.DateOnly), f.At.UTC().Format("15:04:05.000"), seen, class, f.Text, f.Kind, fact.Node(f.Origin), f.Index)
}
