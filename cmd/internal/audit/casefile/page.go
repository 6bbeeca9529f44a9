package casefile

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

//go:embed report.css
var style string

// layout grows with every change of what render writes.
const layout = "2"

// renderer names what makes the report.
var renderer = fmt.Sprintf("%x", sha256.Sum256([]byte(layout+"\n"+style)))

// page is a report being written.
type page struct{ bytes.Buffer }

// put writes markup; every %s in it is text, and escaped.
func (p *page) put(markup string, args ...any) {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = html.EscapeString(s)
		}
	}
	fmt.Fprintf(p, markup, args...)
}

// say writes a term and what it is, where there is anything.
func (p *page) say(term, is string) {
	if is != "" {
		p.put("<dt>%s</dt><dd>%s</dd>\n", term, is)
	}
}

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

// render writes the report from the other entries. It believes them: what it says is
// what the case file says, and Verify is what checks both.
func render(c Case) ([]byte, error) {
	var p page
	m := c.Manifest
	p.put("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
	p.put("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n")
	p.put("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Case file: %s</title>\n<style>\n", m.Question.String())
	p.WriteString(style)
	p.put("</style>\n</head>\n<body>\n<h1>Case file: %s</h1>\n", m.Question.String())
	p.put("<p class=\"dim\">Made %s by bailiwick %s from the trails named below: %d.</p>\n", utc(m.MadeAt), m.MadeBy, len(m.Trails))
	p.put("<p>This page says what the other entries of the case file say. It proves nothing by itself. To check all of it, on\nany machine, without a network, with the trust file that you keep yourself:</p>\n")
	p.put("<pre>bailiwick trail verify CASE.zip --trust trust.json</pre>\n")
	trails, err := p.rows(c)
	if err != nil {
		return nil, err
	}
	p.reading(m.Question)
	if err := p.decisions(c.Decisions); err != nil {
		return nil, err
	}
	if err := p.attached(c); err != nil {
		return nil, err
	}
	p.put("<h2>Trails</h2>\n")
	p.Write(trails)
	if err := p.policies(c.Policies); err != nil {
		return nil, err
	}
	p.put("</body>\n</html>\n")
	return p.Bytes(), nil
}

// rows writes every leaf, and returns what there is to say of the trails.
func (p *page) rows(c Case) ([]byte, error) {
	var all []fact.Fact
	var trails page
	for n, o := range c.Manifest.Trails {
		var heads []shownHead
		for _, l := range c.Leaves[n] {
			v, err := trail.VerifyProof(l.Raw, l.Proof, o.Verifier)
			if err != nil {
				return nil, fmt.Errorf("%w: leaf %d of %s: %w", ErrEntry, l.Index, o.Origin, err)
			}
			if heads == nil {
				if heads, err = c.shownHeads(n, v.Head); err != nil {
					return nil, err
				}
			}
			f := fact.Read(o.Origin, v.Indexed)
			f.Seen = seenBy(heads, l.Index)
			all = append(all, f)
			if g, err := trail.ReadGenesisLeaf(v.Leaf); err == nil {
				trails.put("<h3>%s</h3>\n<dl>\n", o.Origin)
				trails.say("node", g.Node)
				trails.say("signed head", fmt.Sprintf("%d leaves, root %x", v.Head.Size, v.Head.Root))
				trails.say("trail key", "kept in "+g.Protection+": "+o.Verifier)
				trails.say("leaves here", fmt.Sprint(len(c.Leaves[n])))
				trails.put("</dl>\n")
				trails.heads(heads)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b fact.Fact) int { return a.At.Compare(b.At) })
	p.put("<h2>What is recorded</h2>\n<p>In the order of the nodes' own clocks. Trail and leaf are what proves a line.</p>\n")
	p.put("<table>\n<thead><tr><th>When (UTC)</th><th>What</th><th>Trail</th><th>Leaf</th></tr></thead>\n<tbody>\n")
	for _, f := range all {
		p.row(f)
	}
	p.put("</tbody>\n</table>\n")
	return trails.Bytes(), nil
}

// reading says what the lines mean and what they do not.
func (p *page) reading(q Question) {
	p.put("<h2>How to read this</h2>\n<ul>\n")
	p.put("<li>A line is what the node recorded. The proof shows that the node said it and has not changed it since, not that it is true.</li>\n")
	p.put("<li>Times are by the node's own clock. “Seen by” is when, by the clock of an honest one of them, the trail's witnesses had seen the line, in whole seconds: it existed by then.</li>\n")
	if q.Span() {
		p.put("<li>Every leaf of the span is here; verify checks that none is missing.</li>\n")
	} else {
		p.put("<li>The leaves were chosen. That others were left out is not to be seen from this file; a case file of a span shows that none is missing.</li>\n")
	}
	p.put("<li>Allows are counted, so a single one may have no line of its own.</li>\n</ul>\n")
}

func (p *page) decisions(list [][]byte) error {
	p.put("<h2>Decisions</h2>\n")
	for _, b := range sorted(list) {
		e, err := decision.ParseEvent(b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
		p.put("<h3><span class=\"deny\">Denied</span>: %s</h3>\n<dl>\n", e.Path)
		p.say("decision", e.DecisionID)
		p.say("when", utc(e.Timestamp))
		p.say("asked by", e.RequestedBy)
		p.say("target", e.Result.Target)
		p.say("rule", e.Result.Rule)
		p.say("policy", e.Result.Level)
		if e.Result.File != "" {
			p.say("line", fmt.Sprintf("%s:%d", e.Result.File, e.Result.Line))
		}
		p.say("reason", e.Result.Reason)
		p.say("generation", e.Result.Revision)
		p.put("</dl>\n")
		var input bytes.Buffer
		if len(e.Input) == 0 || json.Indent(&input, e.Input, "", "  ") != nil {
			p.put("<p class=\"dim\">No input was kept.</p>\n")
			continue
		}
		p.put("<p class=\"dim\">The input, as it was asked; its digest is in the leaf.</p>\n<pre>%s</pre>\n", input.String())
	}
	if len(list) == 0 {
		p.put("<p>None.</p>\n")
	}
	return nil
}

// attached lists what else is in the case file.
func (p *page) attached(c Case) error {
	p.put("<h2>Evidence and trust records</h2>\n<ul>\n")
	for _, part := range []struct {
		what string
		list [][]byte
		name func([]byte) (string, error)
	}{{"proof", c.Evidence, evidenceName}, {"trust record", c.Trust, trustName}} {
		for _, b := range sorted(part.list) {
			name, err := part.name(b)
			if err != nil {
				return err
			}
			p.put("<li>%s <code>%s</code>, %d bytes</li>\n", part.what, name, len(b))
		}
	}
	if len(c.Evidence)+len(c.Trust) == 0 {
		p.put("<li>None.</li>\n")
	}
	p.put("</ul>\n")
	return nil
}

func (p *page) policies(list [][]byte) error {
	p.put("<h2>Policies</h2>\n")
	for _, b := range sorted(list) {
		signed, content, err := bundle.Split(b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
		r, err := bundle.ReadRecord(signed)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
		c, err := bundle.Unpack(content)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
		p.put("<h3>%s policy of %s, version %d (%s)</h3>\n<dl>\n", r.Level, r.Scope, r.Version, r.Mode)
		p.say("author", r.Author)
		p.say("change", r.Change)
		p.put("</dl>\n")
		for _, path := range slices.Sorted(maps.Keys(c.Modules)) {
			p.put("<p class=\"dim\">%s</p>\n<pre>%s</pre>\n", path, c.Modules[path])
		}
	}
	if len(list) == 0 {
		p.put("<p>None in this case file.</p>\n")
	}
	return nil
}

func sorted(list [][]byte) [][]byte { return slices.SortedFunc(slices.Values(list), bytes.Compare) }

// page judges the report that came with a case.
func (c Case) page() Verdict {
	if c.Manifest.Renderer != renderer {
		return Verdict{Good: true, Why: "written by another version, so what it says was not checked: make one from the entries with --report FILE"}
	}
	want, err := render(c)
	if err != nil {
		return bad(fmt.Errorf("%w: %w", ErrReport, err))
	}
	if !bytes.Equal(want, c.report) {
		return bad(ErrReport)
	}
	return Verdict{Good: true, Why: "it says what the entries say"}
}

// Page writes the report of a case, as this version does.
func Page(c Case) ([]byte, error) { return render(c) }
