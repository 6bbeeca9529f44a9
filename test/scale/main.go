// Command scale shows how delivery grows with the region: docs/scale.md and its plots,
// from results that were recorded.
//
//	go run ./test/scale                       writes docs/scale.md and docs/scale-*.svg from test/scale/results.json
//	go run ./test/scale -record 10,100,1000   measures these sizes first and puts them into the results
//
// Recording 5,000 nodes takes minutes. Nothing here depends on the machine but how long
// that takes: both systems are simulated.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/test/sim"
	"github.com/bailiwick-mesh/bailiwick/test/swim"
)

// results are what was recorded.
type results struct {
	Rows []row `json:"rows"` // ascending by nodes
}

type row struct {
	Nodes  int         `json:"nodes"`
	Ours   sim.Result  `json:"ours"`
	Theirs swim.Result `json:"theirs"` // the model's
}

const recorded = "test/scale/results.json"

func main() {
	record := flag.String("record", "", "measure regions of these sizes, comma-separated")
	flag.Parse()
	if err := run(*record); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(record string) error {
	res, err := read(recorded)
	if err != nil {
		return err
	}
	for size := range strings.SplitSeq(record, ",") {
		if size == "" {
			continue
		}
		nodes, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		r, err := sim.Deliver(sim.Options{Nodes: nodes})
		if err != nil {
			return err
		}
		res.put(r)
	}
	if record != "" {
		b, err := json.MarshalIndent(res, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(recorded, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	for name, text := range res.docs() {
		if err := os.WriteFile(filepath.Join("docs", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func read(path string) (res results, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return res, err
	}
	return res, json.Unmarshal(b, &res)
}

// put takes in a result of ours, with the model's of the same size.
func (res *results) put(r sim.Result) {
	r.Wall = 0 // is the machine's
	res.Rows = slices.DeleteFunc(res.Rows, func(x row) bool { return x.Nodes == r.Nodes })
	res.Rows = append(res.Rows, row{r.Nodes, r, swim.Model(r.Nodes, r.Updates, 1)})
	slices.SortFunc(res.Rows, func(a, b row) int { return cmp.Compare(a.Nodes, b.Nodes) })
}
