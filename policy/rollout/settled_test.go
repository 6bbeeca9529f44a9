package rollout

import "testing"

func TestSettled(t *testing.T) {
	record, newer, older := [8]byte{36}, [8]byte{37}, [8]byte{35}
	heard := func(enforces ...[8]byte) (out []Peer) {
		for _, e := range enforces {
			out = append(out, Peer{Heard: true, Enforces: e})
		}
		return out
	}
	for name, c := range map[string]struct {
		peers []Peer
		want  bool
	}{
		"nobody":                    {nil, false},
		"all others":                {heard(record, record), true},
		"one who came back as well": {heard(record, record, older), true},
		"half":                      {heard(record, older), false},
		"it was stopped, and one node says it was not": {heard(older, older, record), false},
		"who enforces the newer one has no say":        {heard(newer, newer, newer, record), true},
		"nor who says nothing":                         {heard([8]byte{}, [8]byte{}, record), true},
		"only the newer one":                           {heard(newer, newer), false},
		"nor who is not heard":                         {append([]Peer{{Enforces: older}, {Enforces: older}}, heard(record)...), true},
		"who is not heard says nothing for it":         {[]Peer{{Enforces: record}}, false},
	} {
		if got := Settled(c.peers, record, newer); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
