package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	Aim           *float64 `json:"aim,omitempty"` // what ours has to be itself; goal says it as a ratio
	Met           *bool    `json:"met"`
	Skipped       string   `json:"skipped"`
	Failed        string   `json:"failed,omitempty"` // why there are no figures though it was measured
	N             int      `json:"n"`
	Spread        *float64 `json:"spread"`
	CPU           *spent   `json:"cpu,omitempty"`
	Bound         *float64 `json:"bound,omitempty"` // what Ratio would be if nobody ever waited
	Note          string   `json:"note"`
}

// spent is what one operation costs in processor time, user and system, in
// microseconds. A busy neighbour, a slow disk or a shared client changes it little.
type spent struct {
	Ours      float64 `json:"ours"`
	Reference float64 `json:"reference"`
	Client    float64 `json:"client"` // this process, for one operation of either
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
	aim        float64 // of ours, in the unit: the goal is then what ratio that is, if it is no stricter one already
	once       bool    // it is a simulation, the same each time: one round is all
	note       string
	disk       bool // what is measured is waiting for a disk
	// prepare makes the inputs. Whatever it starts, sides.stop ends.
	prepare func(dir string, s size) (sides, error)
}

// sides are what is compared. Each does one round and returns its figure.
type sides struct {
	ours, reference func() (float64, error)
	limit           func() (float64, error) // may be nil
	ready           [2]func() error         // makes what the next round of ours or the reference uses up; may be nil
	stop            func()                  // may be nil
	note            func() string           // what is only known afterwards; may be nil
	procs           [2]*process             // ours and the reference, where they are programs whose processor time counts
	ops             int                     // operations a round, with procs
}

// Where the functions stand that are measured.
const (
	byOurs      = 0
	byReference = 1
)

// errAbsent makes prepare's error the reason of a skipped row: something that
// is not part of the project is not on this machine.
var errAbsent = errors.New("not on this machine")

// mostRepeats is how many rounds of the reference a row repeats because they failed: its
// faults are not ours to repair. Inputs that serve once are made for as many rounds more.
const mostRepeats = 3

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
	funcs := []func() (float64, error){byOurs: parts.ours, byReference: parts.reference}
	if parts.limit != nil {
		funcs = append(funcs, parts.limit)
	}
	figures, cpu, repeats := make([][]float64, len(funcs)), meter{sides: parts}, 0
	warm := 1 // rounds that do not count
	if b.once {
		warm, n = 0, 1
	}
	for round := range n + warm {
		for i := range funcs {
			if round%2 == 1 {
				i = len(funcs) - 1 - i
			}
			v, used, err := cpu.round(i, funcs[i])
			for ; err != nil && i == byReference && repeats < mostRepeats; repeats++ {
				fmt.Fprintf(os.Stderr, "%s: %v: this round once more\n", b.reference, err)
				v, used, err = cpu.round(i, funcs[i])
			}
			if err != nil {
				return row, fmt.Errorf("%s: %w", [...]string{"ours", "reference, " + b.reference, "limit"}[i], err)
			}
			if round >= warm {
				figures[i] = append(figures[i], v)
				cpu.add(i, used)
			}
		}
	}
	row.aim(b, figures)
	row.fill(figures, b.higher, n)
	row.CPU = cpu.spent(n)
	row.Bound = cpu.bound(b.higher)
	if parts.note != nil {
		row.Note += parts.note()
	}
	if repeats > 0 {
		row.Note += fmt.Sprintf("; rounds of the reference that failed and were made again: %d", repeats)
	}
	return row, nil
}

// aim makes the goal of what ours has to be itself.
func (r *Row) aim(b bench, figures [][]float64) {
	if b.aim == 0 {
		return
	}
	goal := b.aim / median(figures[1])
	if b.goal != 0 && b.higher == (b.goal > goal) {
		goal = b.goal
	}
	r.Aim, r.Goal = &b.aim, &goal
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
	fmt.Fprintln(t, "AREA\tNAME\tOURS\tREFERENCE\tLIMIT\tRATIO\tGOAL\tAIM\tMET\tSPREAD\tBOUND\tCPU µs\tUNIT\tREFERENCE IS")
	for _, r := range rows {
		if r.Skipped != "" || r.Failed != "" {
			word, why := "skipped", r.Skipped
			if r.Failed != "" {
				word, why = "FAILED", r.Failed
			}
			fmt.Fprintf(t, "%s\t%s\t%s: %s\n", r.Area, r.Name, word, strings.Join(strings.Fields(why), " ")) // on one line
			continue
		}
		met := "-"
		if r.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*r.Met]
		}
		cpu := "-"
		if r.CPU != nil {
			cpu = figure(&r.CPU.Ours) + "/" + figure(&r.CPU.Reference)
		}
		fmt.Fprintln(t, strings.Join([]string{r.Area, r.Name, figure(r.Ours), figure(r.Reference), figure(r.Limit),
			figure(r.Ratio), figure(r.Goal), figure(r.Aim), met, figure(r.Spread), figure(r.Bound), cpu, r.Unit, r.ReferenceName}, "\t"))
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
