package app

import "testing"

// Nothing is open that policy has not opened by the name of its kind, or as one of many.
func TestSuspectStateIsClosed(t *testing.T) {
	for name, c := range map[string]struct {
		told  bool
		kinds []string
		open  map[string]bool
	}{
		"before any answer": {open: map[string]bool{"": false, "x-note": false, "service": false}},
		"no answer":         {told: true, open: map[string]bool{"x-note": false}},
		"one kind":          {true, []string{"x-note"}, map[string]bool{"x-note": true, "x-notes": false, "x": false, "service": false}},
		"all of operators":  {true, []string{"x-*"}, map[string]bool{"x-note": true, "x-": true, "service": false}},
		"all":               {true, []string{"service", "*"}, map[string]bool{"x-note": true, "service": true, "node": true}},
	} {
		var s suspects
		if c.told {
			s.open([]string{"x-note", "*"}) // what was open before counts no more
			s.open(c.kinds)
		}
		for kind, want := range c.open {
			if got := s.opens(kind); got != want {
				t.Errorf("%s: %q is open: %v", name, kind, got)
			}
		}
	}
}
