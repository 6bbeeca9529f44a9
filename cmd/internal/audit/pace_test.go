package audit

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	t0 := time.Unix(1_795_262_400, 0)
	p := NewPace(t0)
	for _, tt := range []struct {
		after       time.Duration
		done, total uint64
		want        string
	}{
		{500 * time.Millisecond, 100, 1000, ""},
		{2 * time.Second, 200, 1000, "200 of 1000 leaves (20 %), 100/s, 8s left"},
		{2*time.Second + time.Millisecond, 201, 1000, ""},
		{4 * time.Second, 1000, 1000, "1000 of 1000 leaves (100 %), 250/s, 0s left"},
		{5 * time.Second, 0, 1000, ""},
	} {
		if got := p.Say(t0.Add(tt.after), tt.done, tt.total); got != tt.want {
			t.Errorf("after %s: %q, want %q", tt.after, got, tt.want)
		}
	}
}
