package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
)

// Row is one line of the table and of latest.json. Figures are absent where the
// row was skipped or has no such thing.
type Row struct {
	Area          string   `json:"area"`
	Name          string   `json:"name"`
	Unit          string   `json:"unit"` // ends in "higher is better" or "lower is better"
	Ours          *float64 `json:"ours"`
	Reference     *float64 `json:"reference"`
	ReferenceName string   `json:"reference_name"`
	Limit         *float64 `json:"limit"`
	Ratio         *float64 `json:"ratio"`
	Goal          *float64 `json:"goal"`
	Met           *bool    `json:"met"`
	Skipped       string   `json:"skipped"`
	N             int      `json:"n"`
	Spread        *float64 `json:"spread"`
	Note          string   `json:"note"`
}

// size is how much work a round does.
type size bool

const (
	full size = true
	tiny size = false // TestRows: does it run, and are the results right
)

// pick returns n at full size and few otherwise.
func (s size) pick(n, few int) int {
	if s == full {
		return n
	}
	return few
}

// bench describes one row.
type bench struct {
	area, name string
	unit       string // of all figures
	higher     bool   // is better
	reference  string // its name
	goal       float64
	note       string
	disk       bool // what is measured is waiting for a disk
	// prepare makes the inputs. Whatever it starts, sides.stop ends.
	prepare func(dir string, s size) (sides, error)
}

// sides are what is compared. Each does one round and returns its figure.
type sides struct {
	ours, reference func() (float64, error)
	limit           func() (float64, error) // may be nil
	stop            func()                  // may be nil
	note            func() string           // what is only known afterwards; may be nil
}

// errAbsent makes prepare's error the reason of a skipped row: something that
// is not part of the project is not on this machine.
var errAbsent = errors.New("not on this machine")

func measure(b bench, dir string, s size, n int) (Row, error) {
	row := Row{Area: b.area, Name: b.name, Unit: b.unit + ", lower is better", ReferenceName: b.reference, Note: b.note}
	if b.higher {
		row.Unit = b.unit + ", higher is better"
	}
	if b.goal != 0 {
		row.Goal = &b.goal
	}
	if s == full && b.disk && inMemory(dir) {
		row.Skipped = dir + " is in memory, where waiting for a disk costs nothing"
		return row, nil
	}
	dir, err := os.MkdirTemp(dir, b.name+"-")
	if err != nil {
		return row, err
	}
	defer os.RemoveAll(dir)
	parts, err := b.prepare(dir, s)
	if errors.Is(err, errAbsent) || errors.Is(err, errTiny) {
		row.Skipped = err.Error()
		return row, nil
	} else if err != nil {
		return row, err
	}
	if parts.stop != nil {
		defer parts.stop()
	}
	funcs := []func() (float64, error){parts.ours, parts.reference}
	if parts.limit != nil {
		funcs = append(funcs, parts.limit)
	}
	figures := make([][]float64, len(funcs))
	for round := range n + 1 {
		for i := range funcs {
			if round%2 == 1 {
				i = len(funcs) - 1 - i
			}
			runtime.GC() // nobody pays for another's garbage
			v, err := funcs[i]()
			if err != nil {
				return row, err
			}
			if round > 0 { // the first warms up
				figures[i] = append(figures[i], v)
			}
		}
	}
	row.fill(figures, b.higher, n)
	if parts.note != nil {
		row.Note += parts.note()
	}
	return row, nil
}

func (r *Row) fill(figures [][]float64, higher bool, n int) {
	r.N = n
	ours, reference := median(figures[0]), median(figures[1])
	ratio := ours / reference
	spread := (slices.Max(figures[0]) - slices.Min(figures[0])) / ours
	r.Ours, r.Reference, r.Ratio, r.Spread = &ours, &reference, &ratio, &spread
	if len(figures) > 2 {
		limit := median(figures[2])
		r.Limit = &limit
	}
	if r.Goal != nil {
		met := ratio <= *r.Goal
		if higher {
			met = ratio >= *r.Goal
		}
		r.Met = &met
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	mid := len(v) / 2
	if len(v)%2 == 0 {
		return (v[mid-1] + v[mid]) / 2
	}
	return v[mid]
}

// inMemory reports whether dir is on a file system without a disk.
func inMemory(dir string) bool {
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	var fs syscall.Statfs_t
	return syscall.Statfs(dir, &fs) == nil && (fs.Type == tmpfs || fs.Type == ramfs)
}

func writeTable(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AREA\tNAME\tOURS\tREFERENCE\tLIMIT\tRATIO\tGOAL\tMET\tSPREAD\tUNIT\tREFERENCE IS")
	for _, r := range rows {
		if r.Skipped != "" {
			fmt.Fprintf(t, "%s\t%s\tskipped: %s\n", r.Area, r.Name, r.Skipped)
			continue
		}
		met := "-"
		if r.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*r.Met]
		}
		fmt.Fprintln(t, strings.Join([]string{r.Area, r.Name, figure(r.Ours), figure(r.Reference), figure(r.Limit),
			figure(r.Ratio), figure(r.Goal), met, figure(r.Spread), r.Unit, r.ReferenceName}, "\t"))
	}
	return t.Flush()
}

// figure prints three significant digits.
func figure(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 1000:
		return strconv.FormatFloat(*v, 'f', 0, 64)
	}
	return strconv.FormatFloat(*v, 'g', 3, 64)
}

func writeJSON(path string, rows []Row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
