package app

import (
	"strings"
	"testing"
	"time"
)

func TestEnding(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]string{
		endingSoon:           "",
		endingSoon - 1:       "in 29 days",
		time.Hour:            "in 0 days",
		0:                    "ended 2026-11-21",
		-48 * time.Hour:      "ended 2026-11-19",
		365 * 24 * time.Hour: "",
	} {
		got := strings.Join(ending("the record", now.Add(left), now), " ")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%v left: %q, want %q", left, got, want)
		}
	}
}
