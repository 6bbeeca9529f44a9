// Command run simulates fleets: scenarios from files, or how delivery grows with the fleet.
//
//	go run ./test/sim/run test/sim/testdata/small/*.txt
//	go run ./test/sim/run -seed 7 test/sim/testdata/small/droppers.txt
//	go run ./test/sim/run -grow 10,100,1000
//	go run ./test/sim/run -schedules 10000
//
// It prints one JSON line for each run. Standard error gets a line when a run begins and
// ends, the story of one that was not as its scenario expects, and how many were; the exit
// code then is 1.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/test/sim"
)

func main() {
	seed := flag.Uint64("seed", 0, "instead of the scenarios' own")
	grow := flag.String("grow", "", "measure delivery in fleets of these sizes, comma-separated")
	schedules := flag.Int("schedules", 0, "run so many schedules by chance, from the seed on (1), and count what happened")
	flag.Parse()
	if err := run(*seed, *grow, *schedules, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(seed uint64, grow string, schedules int, files []string) error {
	out := json.NewEncoder(os.Stdout)
	if schedules > 0 {
		tally, err := sim.Schedules(max(seed, 1), schedules)
		if err := errors.Join(out.Encode(tally), err); err != nil {
			return err
		}
	}
	if grow != "" {
		for size := range strings.SplitSeq(grow, ",") {
			nodes, err := strconv.Atoi(size)
			if err != nil {
				return err
			}
			r, err := sim.Deliver(sim.Options{Nodes: nodes, Seed: seed})
			if err != nil {
				return err
			}
			if err := out.Encode(r); err != nil {
				return err
			}
		}
	}
	var scenarios []sim.Scenario
	for _, path := range files {
		s, err := sim.Read(path)
		if err != nil {
			return err
		}
		if seed != 0 {
			s.Seed = seed
		}
		scenarios = append(scenarios, s)
	}
	if len(scenarios) == 0 {
		return nil
	}
	failed, start := 0, time.Now()
	for r := range runs(scenarios) {
		s := r.Scenario
		if r.err != nil {
			failed++
			fmt.Fprintf(os.Stderr, "%s: after %s\n%v\n", s.Name, r.took.Round(time.Second), r.err)
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: as expected, after %s\n", s.Name, r.took.Round(time.Second))
		if err := out.Encode(map[string]any{"scenario": s.Name, "seed": s.Seed, "nodes": s.Nodes, "values": r.Values, "trace": r.Trace, "wall_seconds": r.Wall.Seconds()}); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "%d of %d scenarios were as expected; all took %s\n", len(files)-failed, len(files), time.Since(start).Round(time.Second))
	if failed > 0 {
		return errFailed
	}
	return nil
}

var errFailed = errors.New("what was not as expected is told above")

// outcome is a report, or why there is none.
type outcome struct {
	sim.Report
	took time.Duration
	err  error
}

// runs runs scenarios, as many at once as there are processors, and yields what became of
// them as they end.
func runs(scenarios []sim.Scenario) <-chan outcome {
	todo, done := make(chan sim.Scenario), make(chan outcome)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for s := range todo {
				fmt.Fprintf(os.Stderr, "%s: %d nodes for %s, seed %d\n", s.Name, s.Nodes, s.For, s.Seed)
				start := time.Now()
				r, err := sim.Run(s)
				r.Scenario = s
				done <- outcome{r, time.Since(start), err}
			}
		})
	}
	go func() {
		for _, s := range scenarios {
			todo <- s
		}
		close(todo)
		wait.Wait()
		close(done)
	}()
	return done
}
