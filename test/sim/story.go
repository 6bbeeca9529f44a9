package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// line is one line of a run's story.
type line struct {
	at   time.Duration
	text string
}

// maxStory bounds what is kept of a run's story.
const maxStory = 10000

// tell notes something worth telling; n is whom it happens to, or nil.
func (f *fleet) tell(n *node, format string, args ...any) {
	if len(f.story) >= maxStory {
		return
	}
	text := fmt.Sprintf(format, args...)
	if n != nil {
		text = n.name() + " " + text
	}
	f.story = append(f.story, line{f.elapsed, text})
}

// maxTold is how many lines of each sort a story has.
const maxTold = 12

// retell returns what happened to the nodes and updates that a run failed for.
func (f *fleet) retell() string {
	var b strings.Builder
	told := slices.Clone(f.story)
	if u, n := f.worst(); u != nil {
		told = append(told, f.path(u, n)...)
	}
	slices.SortStableFunc(told, func(a, b line) int { return int(a.at - b.at) })
	if cut := len(told) - 3*maxTold; cut > 0 {
		told = slices.Concat(told[:maxTold], []line{{told[maxTold].at, fmt.Sprintf("... %d lines more ...", cut)}}, told[maxTold+cut:])
	}
	for _, l := range told {
		fmt.Fprintf(&b, "  %12s  %s\n", l.at.Round(time.Microsecond), l.text)
	}
	for i, harm := range f.harms {
		if i == maxTold {
			break
		}
		fmt.Fprintf(&b, "  harm: %s\n", harm)
	}
	f.differences(&b)
	return b.String()
}

// worst returns the update that came last, or not at all, and the node where.
func (f *fleet) worst() (worst *update, at *node) {
	longest := int64(-1)
	for _, u := range f.updates {
		if !u.written {
			continue
		}
		for _, n := range f.nodes {
			if !n.honest() || !n.up || n.index == u.writer || u.put == 0 {
				continue
			}
			if u.after[n.index] == 0 {
				return u, n
			}
			if u.after[n.index] > longest {
				worst, at, longest = u, n, u.after[n.index]
			}
		}
	}
	return worst, at
}

// path tells how an update came to a node, from its writer on; or what its neighbours
// did where it did not come.
func (f *fleet) path(u *update, n *node) (out []line) {
	came := func(i int) time.Duration { return u.put + time.Duration(u.after[i]) }
	if u.after[n.index] == 0 {
		var have, lack []string
		for _, e := range n.ends {
			if u.after[e.peer.index] > 0 {
				have = append(have, e.peer.name())
			} else {
				lack = append(lack, e.peer.name())
			}
		}
		out = append(out, line{f.elapsed, fmt.Sprintf("update %d of n%d is not at %s; of its peers %v have it, %v do not", u.number, u.writer, n.name(), have, lack)})
	}
	for at := n.index; u.after[at] > 0; {
		from := int(u.from[at])
		if at == u.writer || from < 0 {
			break
		}
		out = append(out, line{came(at), fmt.Sprintf("update %d is durable at n%d, %s after it was put; n%d had it %s before",
			u.number, at, time.Duration(u.after[at]), from, came(at)-came(from))})
		at = from
	}
	return append(out, line{u.put, fmt.Sprintf("update %d is put at n%d", u.number, u.writer)})
}

// differences tells in which feeds frontiers differ.
func (f *fleet) differences(b *strings.Builder) {
	var first *node
	count := 0
	for _, n := range f.nodes {
		switch {
		case !n.honest() || !n.up:
		case first == nil:
			first = n
		default:
			for _, d := range first.core.Frontier().Diff(n.core.Frontier()) {
				if count++; count <= maxTold {
					fmt.Fprintf(b, "  %s has %s up to %d, %s up to %d\n", first.name(), d.Feed, d.Ours.Seq, n.name(), d.Theirs.Seq)
				}
			}
		}
	}
}
