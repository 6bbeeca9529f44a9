package interop

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// TestMain prints the matrix at the end.
func TestMain(m *testing.M) {
	code := m.Run()
	matrix.print()
	os.Exit(code)
}

// binary returns a program that `make interop` built.
func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: run `make interop`, which builds it", err)
	}
	return path
}

// column says who talks to whom.
type column int

// The columns of the matrix.
const (
	oursAtOurs column = iota
	oursAtSpire
	agentAtOurs
	agentAtSpire
	others // neither: what the cell is called says who
	columns
)

var headings = [2]string{"our client\tour client\tspire-agent\tspire-agent\t", "our issuer\tspire-server\tour issuer\tspire-server\tother"}

func (c column) String() string {
	return [columns]string{"client-issuer", "client-spire-server", "spire-agent-issuer", "spire-agent-spire-server", "other"}[c]
}

// results are the verdicts by row.
type results struct {
	mu   sync.Mutex
	rows map[string]*[columns]string
}

var matrix = results{rows: map[string]*[columns]string{}}

// cell runs one cell of the matrix at the same time as the others.
func cell(t *testing.T, c column, row string, fn func(t *testing.T)) {
	t.Run(c.String()+"/"+strings.ReplaceAll(row, " ", "-"), func(t *testing.T) {
		t.Parallel()
		t.Cleanup(func() { matrix.set(row, c, t.Failed()) }) // runs last: registered first
		fn(t)
	})
}

func (r *results) set(row string, c column, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows[row] == nil {
		r.rows[row] = new([columns]string)
	}
	r.rows[row][c] = map[bool]string{false: "ok", true: "FAIL"}[failed]
}

func (r *results) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "\n\t%s\n\t%s\n", headings[0], headings[1])
	for _, row := range slices.Sorted(maps.Keys(r.rows)) {
		fmt.Fprint(w, row)
		for _, verdict := range r.rows[row] {
			fmt.Fprint(w, "\t", cmp.Or(verdict, "."))
		}
		fmt.Fprintln(w)
	}
}
