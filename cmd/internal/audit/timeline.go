package audit

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// Lanes are the trails that facts come from, in the order of their first fact.
func Lanes(all []fact.Fact) (out []string) {
	for _, f := range all {
		if !slices.Contains(out, f.Origin) {
			out = append(out, f.Origin)
		}
	}
	return out
}

const (
	rowHeight  = 24 // pixels
	headHeight = 70
	timeWidth  = 190
	laneWidth  = 110
	textWidth  = 900
	maxText    = 120 // characters of a line
)

// SVG draws facts, in the order given, as a timeline: a row for each, a lane for each trail.
// What it says in colour it also says in words; it has no script and no link. The error is w's.
func SVG(w io.Writer, title string, all []fact.Fact) error {
	b := bufio.NewWriter(w) // keeps the first error of w for Flush
	lanes := Lanes(all)
	textAt := timeWidth + laneWidth*len(lanes) + 10
	width, height := textAt+textWidth, headHeight+rowHeight*len(all)+20
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s" font-family="DejaVu Sans, sans-serif" font-size="12">`+"\n",
		width, height, width, height, html.EscapeString(title))
	fmt.Fprintln(b, `<style>.ink{fill:#14181f}.dim{fill:#55606f}.line{stroke:#b8c0cc}.back{fill:#fff}.mark{fill:#2b5fad}.bad{fill:#a3201d}@media (prefers-color-scheme:dark){.ink{fill:#e8ebf0}.dim{fill:#a2adbb}.line{stroke:#424b58}.back{fill:#12151a}.mark{fill:#7fb0ff}.bad{fill:#ff8a85}}</style>`)
	fmt.Fprintf(b, "<rect class=\"back\" width=\"%d\" height=\"%d\"/>\n", width, height)
	fmt.Fprintf(b, "<text class=\"ink\" x=\"10\" y=\"24\" font-size=\"15\" font-weight=\"600\">%s</text>\n", html.EscapeString(title))
	for i, o := range lanes {
		x := laneAt(i)
		fmt.Fprintf(b, "<text class=\"dim\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x, headHeight-18, html.EscapeString(cut(fact.Node(o), 14)))
		fmt.Fprintf(b, "<line class=\"line\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", x, headHeight-10, x, height-10)
	}
	for i, f := range all {
		y := headHeight + rowHeight*i + rowHeight/2
		class := "mark"
		if grave(f) {
			class = "bad"
		}
		fmt.Fprintf(b, "<text class=\"dim\" x=\"10\" y=\"%d\">%s</text>\n", y+4, f.At.UTC().Format("2006-01-02 15:04:05.000"))
		fmt.Fprintf(b, "<circle class=\"%s\" cx=\"%d\" cy=\"%d\" r=\"5\"><title>%s, leaf %d</title></circle>\n",
			class, laneAt(slices.Index(lanes, f.Origin)), y, html.EscapeString(f.Origin), f.Index)
		fmt.Fprintf(b, "<text class=\"ink\" x=\"%d\" y=\"%d\"><tspan class=\"dim\">%s #%d </tspan>%s<title>%s</title></text>\n",
			textAt, y+4, html.EscapeString(f.Kind), f.Index, html.EscapeString(cut(f.Text, maxText)), html.EscapeString(f.Text))
	}
	fmt.Fprintln(b, "</svg>")
	return b.Flush()
}

func laneAt(i int) int { return timeWidth + laneWidth*i + laneWidth/2 }

// grave reports whether a fact is one that people look for first.
func grave(f fact.Fact) bool {
	switch f.Kind {
	case trail.DecisionDeny.Name(), trail.PeerFinding.Name(), trail.StateRefuse.Name(), trail.PolicyRefuse.Name(), trail.IssuerRefuse.Name(), "gap":
		return true
	}
	return false
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// Text writes a timeline for a terminal: a line for each fact, with how long after the one before
// it was. The error is w's.
func Text(w io.Writer, all []fact.Fact) error {
	b := bufio.NewWriter(w)
	wide := 0
	for _, o := range Lanes(all) {
		wide = max(wide, len(fact.Node(o)))
	}
	var before time.Time
	for _, f := range all {
		after := ""
		if !before.IsZero() {
			after = "+" + f.At.Sub(before).String()
		}
		before = f.At
		mark := "*"
		if grave(f) {
			mark = "!"
		}
		fmt.Fprintf(b, "%s %12s %s %s %s\n", f.At.UTC().Format("2006-01-02T15:04:05.000Z"), after, mark, fact.Node(f.Origin)+strings.Repeat(" ", wide-len(fact.Node(f.Origin))),
			fmt.Sprintf("#%d %s: %s", f.Index, f.Kind, f.Text))
	}
	return b.Flush()
}
