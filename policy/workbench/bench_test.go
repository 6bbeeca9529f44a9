package workbench

import (
	"testing"
	"time"
)

func TestBench(t *testing.T) {
	tree := example(t, "residency")
	asked, err := tree.Questions(t.Context())
	if err != nil || len(asked) < 8 {
		t.Fatalf("%d questions, %v", len(asked), err)
	}
	got, err := tree.Bench(t.Context(), asked, 5*time.Millisecond)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, m := range got {
		if m.Decisions < m.Questions || m.Each <= 0 || m.PerSecond <= 0 || m.Allocations < 10 || m.Bytes < 100 {
			t.Errorf("%+v", m)
		}
		if m.Recalled > m.Each {
			t.Errorf("remembering takes longer than deciding: %+v", m)
		}
	}
}
