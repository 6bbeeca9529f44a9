package reach

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"unicode/utf8"
)

// Sizes of the drawing, in pixels.
const (
	margin     = 24
	rowHeight  = 24
	denseWidth = 40
	charWidth  = 7 // of the font, at most, on average
	ruleHeight = 20
)

const svgStyle = `<style>
svg { --bg: #faf9f6; --ink: #1c2430; --soft: #5b6472; --line: #e2dfd8;
  --yes: #0f766e; --yes-ink: #ffffff; --no: #f3ece7; --no-ink: #7d4a36;
  --some: #f0b23e; --some-ink: #2b1d00; --half: #dbe4fa; --half-ink: #27407a; }
@media (prefers-color-scheme: dark) { svg { --bg: #12151a; --ink: #e7e9ec; --soft: #a3acb9; --line: #2c323c;
  --yes: #2cc4b2; --yes-ink: #04211e; --no: #242931; --no-ink: #d3a994;
  --some: #d99e33; --some-ink: #1f1500; --half: #2d3a5a; --half-ink: #cfdcff; } }
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
.title { font-size: 20px; font-weight: 600; } .soft { fill: var(--soft); } .right { text-anchor: end; } .middle { text-anchor: middle; }
.yes rect { fill: var(--yes); } .yes text { fill: var(--yes-ink); } .no rect { fill: var(--no); } .no text { fill: var(--no-ink); }
.some rect { fill: var(--some); } .some text { fill: var(--some-ink); } .half rect { fill: var(--half); } .half text { fill: var(--half-ink); }
</style>`

// SVG writes the matrix as a drawing. Each cell has its glyph, its rule and, for those who point at
// it or have it read to them, its story. The error is w's.
func SVG(w io.Writer, m Matrix) error {
	s := newSheet(m)
	labels, heads, cell := widest(s)
	top := 92.0 + heads
	left := margin + labels + 12
	if s.Wordy {
		top = 120
	}
	width := left + cell*float64(len(s.Columns)) + margin + heads*0.7
	for _, r := range s.Rules {
		width = max(width, margin*2+textWidth(ruleText(r)))
	}
	width = max(width, margin*2+textWidth(s.Facts))
	rulesAt := top + rowHeight*float64(len(s.Rows)) + 40
	legendAt := rulesAt + ruleHeight*float64(len(s.Rules)+1) + 12
	height := legendAt + ruleHeight*float64(len(s.Legend)) + margin

	b := bufio.NewWriter(w) // keeps the first error of w for Flush
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="%s: %s" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f">`,
		esc(s.Title), esc(s.Facts), width, height, width, height)
	fmt.Fprintf(b, "\n<title>%s</title>\n%s\n", esc(s.Title), svgStyle)
	fmt.Fprintf(b, `<rect width="100%%" height="100%%" style="fill: var(--bg)"/>`+"\n")
	text(b, margin, 42, "title", s.Title)
	text(b, margin, 64, "soft", s.Facts)
	for i, c := range s.Columns {
		x := left + cell*float64(i)
		if s.Wordy {
			text(b, x+10, top-24, "", c.Name)
			text(b, x+10, top-9, "soft", c.Region)
			continue
		}
		fmt.Fprintf(b, `<text transform="translate(%.1f %.1f) rotate(-55)">%s<tspan class="soft"> %s</tspan></text>`+"\n", x+cell/2+4, top-8, esc(c.Name), esc(c.Region))
	}
	for i, r := range s.Rows {
		y := top + rowHeight*float64(i)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" class="right">%s<tspan class="soft">  %s</tspan></text>`+"\n", left-12, y+16, esc(r.Caller), esc(r.Domain))
		for j, c := range r.Cells {
			drawCell(b, left+cell*float64(j), y, cell, c, s.Wordy)
		}
	}
	text(b, margin, rulesAt, "", "Rules that decide")
	for i, r := range s.Rules {
		text(b, margin, rulesAt+ruleHeight*float64(i+1), "soft", ruleText(r))
	}
	for i, l := range s.Legend {
		y := legendAt + ruleHeight*float64(i)
		fmt.Fprintf(b, `<g class="%s"><rect x="%d" y="%.1f" width="22" height="16" rx="3"/><text x="%d" y="%.1f" class="middle">%s</text></g>`+"\n", l.Verdict, margin, y, margin+11, y+12, l.Glyph)
		text(b, margin+32, y+12, "", fmt.Sprintf("%d %s: %s", l.Cells, l.Verdict, l.Reader))
	}
	fmt.Fprint(b, "</svg>\n")
	return b.Flush()
}

func drawCell(b io.Writer, x, y, width float64, c square, wordy bool) {
	fmt.Fprintf(b, `<g class="%s"><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%d" rx="4"/>`, c.Verdict, esc(c.Tell), x+1, y+1, width-2, rowHeight-2)
	if wordy {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f">%s %s</text></g>`+"\n", x+10, y+16, c.Glyph, esc(c.Text))
		return
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" class="middle">%s %s</text></g>`+"\n", x+width/2, y+16, c.Glyph, esc(c.Text))
}

func ruleText(r ruled) string {
	out := fmt.Sprintf("%d  %s %s  %s", r.Number, r.Rule, does(r.Allow), r.Title)
	if w := r.Where(); w != "" {
		out += "  " + w
	}
	return fmt.Sprintf("%s  (%s)", out, counted(r.Cells, "cell"))
}

// widest measures the labels of rows, the height of slanted heads, and the width of a cell.
func widest(s sheet) (labels, heads, cell float64) {
	for _, r := range s.Rows {
		labels = max(labels, textWidth(r.Caller+"  "+r.Domain))
	}
	if !s.Wordy {
		for _, c := range s.Columns {
			heads = max(heads, textWidth(c.Name+" "+c.Region)*0.82) // the sine of 55 degrees
		}
		return labels, heads, denseWidth
	}
	cell = 96
	for _, c := range s.Columns {
		cell = max(cell, textWidth(c.Name)+20)
	}
	for _, r := range s.Rows {
		for _, c := range r.Cells {
			cell = max(cell, textWidth(c.Text)+40)
		}
	}
	return labels, 0, cell
}

func textWidth(s string) float64 { return charWidth * float64(utf8.RuneCountInString(s)) }

func text(b io.Writer, x, y float64, class, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" class="%s">%s</text>`+"\n", x, y, class, esc(s))
}

func esc(s string) string { return html.EscapeString(s) }
