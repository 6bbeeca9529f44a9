package main

import (
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

func TestWhatIsExported(t *testing.T) {
	old, denial, allow := decision.Event{Timestamp: time.Now().Add(-2 * time.Hour)}, decision.Event{Timestamp: time.Now()}, decision.Event{Timestamp: time.Now()}
	allow.Result.Allow = true
	all := func(yield func(decision.Event, error) bool) {
		_ = yield(old, nil) && yield(denial, nil) && yield(allow, nil)
	}
	for _, tt := range []struct {
		e    exporting
		want int
	}{{exporting{}, 3}, {exporting{since: time.Hour}, 2}, {exporting{denied: true}, 2}, {exporting{since: time.Hour, denied: true}, 1}} {
		got, count := 0, 0
		for range tt.e.chosen(all, &count) {
			got++
		}
		if got != tt.want || count != tt.want {
			t.Errorf("%+v: %d, counted %d", tt.e, got, count)
		}
	}
}
