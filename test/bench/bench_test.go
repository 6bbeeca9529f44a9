package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
