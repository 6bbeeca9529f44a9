package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy/reach"
)

// reachColumns is up to how many services fit beside each other on a terminal.
const reachColumns = 4

// reachTable prints the matrix; with one caller, one service or too many services a line
// for each cell, which has room for the rule's place and title.
func reachTable(w io.Writer, m reach.Matrix) {
	var rows [][]string
	if len(m.Rows) <= 1 || len(m.Services) <= 1 || len(m.Services) > reachColumns {
		for _, r := range m.Rows {
			for _, c := range r.Cells {
				rows = append(rows, []string{reachCaller(r.Caller), c.Service, reachVerdict(c), reachRule(c), reachWhere(c), reachTitle(c)})
			}
		}
		output.Columns(w, "CALLER SERVICE REACH RULE WHERE TITLE", rows)
		return
	}
	for _, r := range m.Rows {
		row := []string{reachCaller(r.Caller)}
		for _, c := range r.Cells {
			row = append(row, strings.TrimSpace(reachVerdict(c)+" "+reachRule(c)))
		}
		rows = append(rows, row)
	}
	output.Columns(w, strings.Join(append([]string{"CALLER"}, m.Services...), " "), rows)
}

// reachCaller is a SPIFFE ID without its scheme.
func reachCaller(id string) string { return strings.TrimPrefix(id, "spiffe://") }

func reachVerdict(c reach.Cell) string {
	if c.Verdict == reach.Some {
		return fmt.Sprintf("%s %d/%d", c.Verdict, c.Allowed, c.Pairs)
	}
	return string(c.Verdict)
}

func reachRule(c reach.Cell) string {
	b, ok := c.Decisive()
	if !ok {
		return ""
	}
	return b.Rule
}

func reachWhere(c reach.Cell) string {
	b, ok := c.Decisive()
	if !ok {
		return "-"
	}
	if w := b.Where(); w != "" {
		return b.End + " " + w
	}
	return b.End
}

func reachTitle(c reach.Cell) string {
	b, _ := c.Decisive()
	return b.Title
}

// splitFull takes NAME.REGION apart, which may end in .mesh.
func splitFull(full string) (name, region string, ok bool) {
	name, region, ok = strings.Cut(strings.TrimSuffix(full, ".mesh"), ".")
	return name, region, ok && name != "" && region != ""
}
