// Command bench measures the product against named references in the same run.
//
//	go run ./test/bench [-area all|identity|gossip|policy|mesh|trail|quarantine] [-row NAME] [-rounds N] [-out FILE]
//
// It prints a table and writes the rows to FILE (default .bench/latest.json).
//
// # How a row is made
//
// A [bench] prepares everything outside the clock and hands back up to three
// functions: ours, the reference and, where there is one, the limit, which is
// what the machine could do if our part cost nothing. Each does one round of
// fixed work and returns a figure in the row's unit. The harness first runs
// every function once and forgets it, then runs them in turn, n rounds, and
// every second round in the opposite order, so that a machine that gets slower
// or busier does so for all of them. The row holds the medians.
//
//	ratio   ours / reference
//	goal    what ratio has to be; absent where none is set
//	aim     what ours has to be itself; goal is then the stricter of both, as a ratio
//	met     ratio >= goal where the unit says "higher is better", else ratio <= goal
//	cpu     processor time of one operation, where the two are programs
//	bound   what ratio would be if nobody ever waited: the same of both programs' processor time,
//	        each with its client's, which runs on the same cores and is the same for both
//	spread  (largest - smallest) / median of our rounds
//	skipped why the row was not measured; it then has no figures
//	failed  what went wrong in it, and on which side; it then has no figures either
//
// A round of the reference that fails is made again, three times a row at most, and the
// note counts them. A row that fails takes nothing from the others: the table has what was
// measured, and the command ends with 1.
//
// A reference is real: code that does the same work with a known library, in
// this process or from an installed program. What is not at hand is a skipped
// row, never a number from elsewhere. A row that is simulated says so in note.
//
// # Adding a row
//
// Append to the list of the area's file. Both sides get the same inputs, do the
// whole of the work the name says, and check their own results: a fast wrong
// answer is an error. A round should take 0.1 to 0.5 s at full size. TestRows
// runs every bench at the smallest size.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const rounds = 7

// benches in the order of the table.
var benches = slices.Concat(identityBenches, wireBenches, gossipBenches, deliveryBenches, idleBenches, residentBenches, loopbackBenches, policyBenches, meshBenches, trailBenches, quarantineBenches)

var areas = []string{"all", "identity", "gossip", "policy", "mesh", "trail", "quarantine"}

func main() {
	area := flag.String("area", "all", strings.Join(areas, ", "))
	name := flag.String("row", "", "only the row of this name")
	out := flag.String("out", filepath.Join(".bench", "latest.json"), "where the rows go")
	n := flag.Int("rounds", rounds, "rounds that count; a profiler wants more")
	flag.Parse()
	if !slices.Contains(areas, *area) || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: area %q, want one of %s\n", *area, strings.Join(areas, ", "))
		os.Exit(2)
	}
	if err := run(*area, *name, *out, *n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(area, name, out string, n int) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	// Scratch files lie beside the result, on the disk that holds the project,
	// and not in a /tmp that may be memory.
	dir, err := filepath.Abs(filepath.Dir(out))
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(dir, "scratch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	var list []Row
	var failed []error
	for _, b := range benches {
		if area != "all" && b.area != area || name != "" && b.name != name {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s %s\n", b.area, b.name)
		row, err := measure(b, scratch, full, n)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", b.area, b.name, err))
			row.Failed = err.Error()
			fmt.Fprintln(os.Stderr, "failed:", row.Failed)
		}
		list = append(list, row)
	}
	if len(list) == 0 {
		return fmt.Errorf("area %s has no row %q", area, name)
	}
	return errors.Join(writeTable(os.Stdout, list), writeJSON(out, list), errors.Join(failed...))
}
