package reach

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
)

// The look of the page, and the search in it: without scripts the page only lacks that.
var (
	//go:embed page.css
	pageStyle string
	//go:embed page.js
	pageScript string
)

// HTML writes the matrix as one page: a table that screen readers read as one, with the rules that
// decide below it. The error is w's.
func HTML(w io.Writer, m Matrix) error {
	s := newSheet(m)
	b := bufio.NewWriter(w) // keeps the first error of w for Flush
	fmt.Fprintf(b, `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%[1]s</title>
<style>
%[3]s</style>
</head>
<body>
<h1>%[1]s</h1>
<p class="facts">%[2]s</p>
<ul class="legend">
`, esc(s.Title), esc(s.Facts), pageStyle)
	for _, l := range s.Legend {
		fmt.Fprintf(b, "<li><span class=\"chip %s\">%s</span><b>%d</b> %[1]s: %[4]s</li>\n", l.Verdict, l.Glyph, l.Cells, esc(l.Reader))
	}
	fmt.Fprint(b, `</ul>
<input class="find" type="search" aria-label="Show callers that contain" placeholder="Show callers that contain …">
`)
	htmlMatrix(b, s)
	htmlRules(b, s)
	fmt.Fprintf(b, "<script>\n%s</script>\n</body>\n</html>\n", pageScript)
	return b.Flush()
}

func htmlMatrix(b io.Writer, s sheet) {
	class := "dense"
	if s.Wordy {
		class = "wordy"
	}
	fmt.Fprintf(b, `<div class="scroll" tabindex="0" role="region" aria-label="Matrix of callers and services">
<table class="matrix %s">
<thead><tr><th scope="col">caller</th>`, class)
	for _, c := range s.Columns {
		fmt.Fprintf(b, `<th scope="col"><span>%s <small>%s</small></span></th>`, esc(c.Name), esc(c.Region))
	}
	fmt.Fprint(b, "</tr></thead>\n<tbody>\n")
	for _, r := range s.Rows {
		fmt.Fprintf(b, `<tr><th scope="row">%s <small>%s · %s</small></th>`, esc(r.Caller), esc(r.Domain), r.Nodes)
		for _, c := range r.Cells {
			story := esc(c.Tell)
			fmt.Fprintf(b, `<td class="%s" title="%s" aria-label="%s"><i>%s</i>%s</td>`, c.Verdict, story, story, c.Glyph, esc(c.Text))
		}
		fmt.Fprint(b, "</tr>\n")
	}
	fmt.Fprint(b, "</tbody>\n</table>\n</div>\n")
}

func htmlRules(b io.Writer, s sheet) {
	fmt.Fprint(b, `<h2>Rules that decide</h2>
<div class="wide">
<table class="rules">
<thead><tr><th scope="col" class="n">no.</th><th scope="col">what</th><th scope="col">rule</th><th scope="col">title</th><th scope="col">level</th><th scope="col">owner</th><th scope="col">where</th><th scope="col" class="n">cells</th></tr></thead>
<tbody>
`)
	for _, r := range s.Rules {
		fmt.Fprintf(b, `<tr><td class="n">%d</td><td>%s</td><td><code>%s</code></td><td>%s</td><td>%s</td><td>%s</td><td><code>%s</code></td><td class="n">%d</td></tr>`+"\n",
			r.Number, does(r.Allow), esc(r.Rule), esc(r.Title), esc(r.Level), esc(r.Owner), esc(r.Where()), r.Cells)
	}
	fmt.Fprint(b, "</tbody>\n</table>\n</div>\n")
}

func does(allow bool) string {
	if allow {
		return "allows"
	}
	return "denies"
}
