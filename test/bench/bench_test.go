package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every bench runs, at its smallest, and gives a whole row.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	var rows []Row
	for _, b := range benches {
		if !slices.Contains(areas, b.area) || seen[b.area+b.name] || b.reference == "" {
			t.Errorf("%s %s: unknown area, name used twice, or no reference", b.area, b.name)
		}
		seen[b.area+b.name] = true
		row, err := measure(b, t.TempDir(), tiny, 1)
		if err != nil {
			t.Errorf("%s %s: %v", b.area, b.name, err)
			continue
		}
		rows = append(rows, row)
		if row.Skipped != "" {
			continue
		}
		for _, v := range []*float64{row.Ours, row.Reference, row.Ratio} {
			if v == nil || !(*v > 0) || math.IsInf(*v, 0) {
				t.Errorf("%s %s: a figure is missing or not positive: %+v", b.area, b.name, row)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "latest.json")
	if err := writeJSON(path, rows); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back []map[string]any
	if err := json.Unmarshal(raw, &back); err != nil || len(back) != len(rows) {
		t.Fatalf("%d rows of %d in the file: %v", len(back), len(rows), err)
	}
	for _, field := range strings.Fields("area name unit ours reference reference_name limit ratio goal met skipped n spread note") {
		if _, ok := back[0][field]; !ok {
			t.Errorf("the file lacks %q", field)
		}
	}
	var table bytes.Buffer
	if err := writeTable(&table, rows); err != nil || strings.Count(table.String(), "\n") != len(rows)+1 {
		t.Errorf("the table: %v\n%s", err, table.String())
	}
}

// A round of the reference that fails is made again, a few times, and counted; ours is
// not. The error says whose it is.
func TestFailedRounds(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name            string
		ours, reference int    // rounds that fail first
		note, want      string // want: of the error
	}{
		{name: "none"},
		{name: "reference once", reference: 1, note: "; rounds of the reference that failed and were made again: 1"},
		{name: "reference as often as may be", reference: mostRepeats, note: "; rounds of the reference that failed and were made again: 3"},
		{name: "reference too often", reference: mostRepeats + 1, want: "reference, stock: broken"},
		{name: "ours", ours: 1, want: "ours: broken"},
	} {
		side := func(fails int) func() (float64, error) {
			return func() (float64, error) {
				if fails--; fails >= 0 {
					return 0, broken
				}
				return 1, nil
			}
		}
		b := bench{area: "trail", name: "x", reference: "stock", prepare: func(string, size) (sides, error) {
			return sides{ours: side(tc.ours), reference: side(tc.reference)}, nil
		}}
		row, err := measure(b, t.TempDir(), tiny, 3)
		if tc.want != "" {
			if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
			}
		} else if err != nil || row.Note != tc.note || row.N != 3 || *row.Ratio != 1 {
			t.Errorf("%s: %+v, %v", tc.name, row, err)
		}
	}
}

// The client's work is on both sides of the bound: halving what a program costs halves nothing
// where the client costs as much.
func TestBound(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	m := meter{sides: sides{ops: 1}, total: [2]reading{{ms(100), ms(100)}, {ms(200), ms(100)}}}
	if low, high := m.bound(false), m.bound(true); *low != 2.0/3 || *high != 1.5 {
		t.Errorf("lower is better: %v, higher: %v", *low, *high)
	}
	if m.ops = 0; m.bound(true) != nil {
		t.Error("a bound without programs")
	}
}

// A row that failed takes nothing from the others.
func TestRunGoesOn(t *testing.T) {
	kept := benches
	defer func() { benches = kept }()
	one := func() (float64, error) { return 1, nil }
	benches = []bench{
		{area: "trail", name: "bad", reference: "r", prepare: func(string, size) (sides, error) { return sides{}, errors.New("no\nluck") }},
		{area: "trail", name: "good", reference: "r", prepare: func(string, size) (sides, error) { return sides{ours: one, reference: one}, nil }},
	}
	out := filepath.Join(t.TempDir(), "rows.json")
	err := run("trail", "", out, 1)
	if err == nil || !strings.Contains(err.Error(), "trail bad: no") {
		t.Errorf("error %v", err)
	}
	var rows []Row
	if raw, err := os.ReadFile(out); err != nil || json.Unmarshal(raw, &rows) != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Failed == "" || rows[0].Ratio != nil || rows[1].Failed != "" || *rows[1].Ratio != 1 {
		t.Errorf("%+v", rows)
	}
	var table bytes.Buffer
	if err := writeTable(&table, rows); err != nil || strings.Count(table.String(), "\n") != 3 || !strings.Contains(table.String(), "FAILED: no luck") {
		t.Errorf("the table: %v\n%s", err, table.String())
	}
}

func TestFill(t *testing.T) {
	goal := 0.7
	figures := [][]float64{{80, 60, 70}, {100, 90, 110}, {200, 200, 200}}
	for _, higher := range []bool{true, false} {
		r := Row{Goal: &goal}
		r.fill(figures, higher, 3)
		if *r.Ours != 70 || *r.Reference != 100 || *r.Ratio != 0.7 || *r.Limit != 200 || !*r.Met {
			t.Errorf("higher %v: ours %v, reference %v, ratio %v, limit %v, met %v", higher, *r.Ours, *r.Reference, *r.Ratio, *r.Limit, *r.Met)
		}
	}
	r := Row{Goal: &goal}
	if r.fill([][]float64{{60}, {100}}, true, 1); *r.Met || r.Limit != nil {
		t.Error("a missed goal is met, or there is a limit")
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median %v", got)
	}
}

// What ours has to be itself counts beside what the ratio has to be: the stricter one.
func TestAim(t *testing.T) {
	for _, tc := range []struct {
		higher    bool
		goal, aim float64
		want      float64
	}{
		{false, 0, 5, 0.05}, {false, 0.02, 5, 0.02}, {false, 0.2, 5, 0.05},
		{true, 0, 5, 0.05}, {true, 0.02, 5, 0.05}, {true, 0.2, 5, 0.2},
	} {
		r := Row{}
		r.aim(bench{higher: tc.higher, goal: tc.goal, aim: tc.aim}, [][]float64{{4}, {100}})
		if r.Goal == nil || *r.Goal != tc.want {
			t.Errorf("%+v: goal %v", tc, r.Goal)
		}
	}
}
