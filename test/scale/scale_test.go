package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files under docs are what the results give.
func TestDocs(t *testing.T) {
	res, err := read("results.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range res.docs() {
		got, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil || string(got) != want {
			t.Errorf("docs/%s is not what the results give: run make scale (%v)", name, err)
		}
		if !strings.HasSuffix(name, ".svg") {
			continue
		}
		for dec := xml.NewDecoder(strings.NewReader(want)); ; {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func TestTicks(t *testing.T) {
	s := scale{2, 30}
	if got := s.ticks(); len(got) != 11 || got[0] != 2 || got[10] != 30 {
		t.Errorf("%v", got)
	}
	if s.share(2) != 0 || s.share(30) != 1 {
		t.Errorf("%v to %v", s.share(2), s.share(30))
	}
	for v, want := range map[float64]bool{2: true, 5: true, 20: true, 30: true, 3: false, 7: false} {
		if s.labels(v) != want {
			t.Errorf("%v: %v", v, !want)
		}
	}
	if number(12000) != "12,000" || number(0.5) != "0.5" || number(20) != "20" {
		t.Error(number(12000), number(0.5), number(20))
	}
}
