// Command bench measures the product against named references in the same run.
//
//	go run ./test/bench [-area all|identity|gossip|policy|mesh|trail|quarantine] [-row NAME] [-out FILE]
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
//	met     ratio >= goal where the unit says "higher is better", else ratio <= goal
//	spread  (largest - smallest) / median of our rounds
//	skipped why the row was not measured; it then has no figures
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
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const rounds = 7

// benches in the order of the table.
var benches = slices.Concat(identityBenches, wireBenches, gossipBenches, policyBenches, meshBenches, trailBenches, quarantineBenches)

var areas = []string{"all", "identity", "gossip", "policy", "mesh", "trail", "quarantine"}

func main() {
	area := flag.String("area", "all", strings.Join(areas, ", "))
	name := flag.String("row", "", "only the row of this name")
	out := flag.String("out", filepath.Join(".bench", "latest.json"), "where the rows go")
	flag.Parse()
	if !slices.Contains(areas, *area) || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: area %q, want one of %s\n", *area, strings.Join(areas, ", "))
		os.Exit(2)
	}
	if err := run(*area, *name, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(area, name, out string) error {
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
	for _, b := range benches {
		if area != "all" && b.area != area || name != "" && b.name != name {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s %s\n", b.area, b.name)
		row, err := measure(b, scratch, full, rounds)
		if err != nil {
			return fmt.Errorf("%s %s: %w", b.area, b.name, err)
		}
		list = append(list, row)
	}
	if err := writeTable(os.Stdout, list); err != nil {
		return err
	}
	return writeJSON(out, list)
}
