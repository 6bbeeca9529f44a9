package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// plot is a line plot with logarithmic axes.
type plot struct {
	title, x, y string
	lines       []line
}

// line is one series. Its name stands at its end, so that no colour has to be told
// from another.
type line struct {
	name   string
	system int    // 0 ours, 1 the other: colour
	dash   string // of the stroke; empty: solid
	mark   mark
	points [][2]float64 // x ascending
}

type mark string

const (
	circle   mark = "circle"
	square   mark = "square"
	triangle mark = "triangle"
	diamond  mark = "diamond"
)

// The drawing, in pixels.
const (
	width, height            = 780, 440
	left, right, top, bottom = 70, 205, 50, 60
	smallestGap              = 16 // between names
)

const style = `
.back{fill:#ffffff}.text{fill:#1f2328;font:13px system-ui,sans-serif}.title{font-size:16px;font-weight:600}
.grid{stroke:#d1d9e0;stroke-width:1}.fine{stroke:#eef1f4;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}
.s0{stroke:#0060a8;fill:#0060a8}.s1{stroke:#b54708;fill:#b54708}
@media (prefers-color-scheme:dark){.back{fill:#0d1117}.text{fill:#e6edf3}.grid{stroke:#3d444d}.fine{stroke:#21262d}.axis{stroke:#9198a1}
.s0{stroke:#58a6ff;fill:#58a6ff}.s1{stroke:#f0a04b;fill:#f0a04b}}
.line{fill:none;stroke-width:2}.name{stroke:none}
`

// svg draws the plot.
func (p plot) svg() string {
	xs, ys := p.axis(0), p.axis(1)
	atX := func(v float64) float64 { return left + xs.share(v)*(width-left-right) }
	atY := func(v float64) float64 { return height - bottom - ys.share(v)*(height-top-bottom) }
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`, width, height, width, height, html.EscapeString(p.title))
	put(`<style>%s</style><rect class="back" width="%d" height="%d"/>`, style, width, height)
	put(`<text class="text title" x="%d" y="28">%s</text>`, left, html.EscapeString(p.title))
	for _, v := range ys.ticks() {
		class := "fine"
		if ys.labels(v) {
			class = "grid"
			put(`<text class="text" x="%d" y="%.1f" text-anchor="end">%s</text>`, left-8, atY(v)+4, number(v))
		}
		put(`<path class="%s" d="M%d %.1fH%d"/>`, class, left, atY(v), width-right)
	}
	for _, v := range xs.ticks() {
		class := "fine"
		if xs.labels(v) {
			class = "grid"
			put(`<text class="text" x="%.1f" y="%d" text-anchor="middle">%s</text>`, atX(v), height-bottom+20, number(v))
		}
		put(`<path class="%s" d="M%.1f %dV%d"/>`, class, atX(v), top, height-bottom)
	}
	put(`<path class="axis line" d="M%d %dV%dH%d"/>`, left, top, height-bottom, width-right)
	put(`<text class="text" x="%d" y="%d" text-anchor="middle">%s</text>`, (left+width-right)/2, height-14, html.EscapeString(p.x))
	put(`<text class="text" transform="translate(18 %d) rotate(-90)" text-anchor="middle">%s</text>`, (top+height-bottom)/2, html.EscapeString(p.y))
	names := p.places(atY)
	for i, l := range p.lines {
		var path strings.Builder
		for j, pt := range l.points {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], atX(pt[0]), atY(pt[1]))
		}
		put(`<path class="line s%d" stroke-dasharray="%s" d="%s"/>`, l.system, l.dash, path.String())
		for _, pt := range l.points {
			put(`<path class="s%d" d="%s"/>`, l.system, l.mark.at(atX(pt[0]), atY(pt[1])))
		}
		put(`<text class="text name s%d" x="%d" y="%.1f">%s</text>`, l.system, width-right+24, names[i]+4, html.EscapeString(l.name))
		put(`<path class="s%d" d="%s"/>`, l.system, l.mark.at(width-right+13, names[i]))
	}
	put(`</svg>`)
	return b.String()
}

// places are the heights of the names: where the lines end, but not on one another.
func (p plot) places(atY func(float64) float64) []float64 {
	order := make([]int, len(p.lines))
	out := make([]float64, len(p.lines))
	for i, l := range p.lines {
		order[i], out[i] = i, atY(l.points[len(l.points)-1][1])
	}
	slices.SortFunc(order, func(a, b int) int { return int(math.Copysign(1, out[a]-out[b])) })
	for i := 1; i < len(order); i++ {
		out[order[i]] = max(out[order[i]], out[order[i-1]]+smallestGap)
	}
	return out
}

// at draws the mark.
func (m mark) at(x, y float64) string {
	switch m {
	case square:
		return fmt.Sprintf("M%.1f %.1fh8v8h-8z", x-4, y-4)
	case triangle:
		return fmt.Sprintf("M%.1f %.1fl5 9h-10z", x, y-5)
	case diamond:
		return fmt.Sprintf("M%.1f %.1fl5 5l-5 5l-5 -5z", x, y-5)
	}
	return fmt.Sprintf("M%.1f %.1fa4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x-4, y)
}

// scale is a logarithmic axis.
type scale struct{ from, to float64 }

func (s scale) share(v float64) float64 {
	return (math.Log10(v) - math.Log10(s.from)) / (math.Log10(s.to) - math.Log10(s.from))
}

// axis spans what the lines have: x to the value, y to one digit above and below.
func (p plot) axis(dim int) scale {
	s := scale{math.Inf(1), 0}
	for _, l := range p.lines {
		for _, pt := range l.points {
			s.from, s.to = min(s.from, pt[dim]), max(s.to, pt[dim])
		}
	}
	if dim == 1 {
		low, high := math.Pow(10, math.Floor(math.Log10(s.from))), math.Pow(10, math.Floor(math.Log10(s.to)))
		s = scale{low * math.Floor(s.from/low), high * (math.Floor(s.to/high) + 1)}
	}
	return s
}

// ticks are the values of one digit in the scale, and its end.
func (s scale) ticks() (out []float64) {
	for power := math.Pow(10, math.Floor(math.Log10(s.from))); power <= s.to; power *= 10 {
		for digit := 1.; digit < 10; digit++ {
			if v := digit * power; v >= s.from*0.999 && v <= s.to*1.001 {
				out = append(out, v)
			}
		}
	}
	return out
}

// labels reports whether a tick has its value beside it: 1, 2 or 5 times a power of ten,
// the end, and everything where that is little.
func (s scale) labels(v float64) bool {
	digit := v / math.Pow(10, math.Floor(math.Log10(v)+1e-9))
	return s.to/s.from < 10 || v == s.to || slices.ContainsFunc([]float64{1, 2, 5}, func(d float64) bool { return math.Abs(d-digit) < 1e-6 })
}

func number(v float64) string {
	s := strconv.FormatFloat(v, 'g', 3, 64)
	if v >= 1000 {
		s = strconv.FormatFloat(v, 'f', 0, 64)
		return s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s
}
