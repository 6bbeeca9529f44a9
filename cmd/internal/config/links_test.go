package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestLinks(t *testing.T) {
	c, err := Parse([]byte(minimal+`links:
  - {peers: [spiffe://east.dev.example/node/n7], mode: headers}
  - {zone: deck, mode: tree, budget: 2KiB/s}
  - {zone: "*", budget: 1 MiB/s}
`), "f")
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]Link{
		"/node/n7":           {Mode: "headers"},
		"/zone/deck/node/n1": {Mode: "tree", Budget: 2048},
		"/node/n1":           {Mode: "full", Budget: 1 << 20},
	} {
		if got := c.LinkTo(spiffeid.RequireFromString("spiffe://east.dev.example" + id)); got.Mode != want.Mode || got.Budget != want.Budget {
			t.Errorf("%s: %+v", id, got)
		}
	}
	c.Links = c.Links[:2]
	if got := c.LinkTo(spiffeid.RequireFromString("spiffe://east.dev.example/node/n1")); got.Mode != "full" || got.Budget != 0 {
		t.Errorf("of whom nothing is said: %+v", got)
	}
}

// All mistakes at once, each with its line.
func TestLinkMistakes(t *testing.T) {
	_, err := Parse([]byte(minimal+`links:
  - mode: thin
  - zone: deck
    budget: 2 kB/s
  - zone: Deck!
    mode: tree
  - peers: [spiffe://west.dev.example/node/n1, spiffe://east.dev.example/workload/x]
    zone: deck
    mode: tree
  - zone: deck
  - zone: deck
    budget: 255B/s
  - {peers: [n8], mode: tree}
`), "f")
	var m *Mistakes
	if !errors.As(err, &m) {
		t.Fatal(err)
	}
	first := strings.Count(minimal, "\n") + 2
	want := map[string]int{
		"links[0].mode": first, "links[0].peers": first, "links[1].budget": first + 2, "links[2].zone": first + 3,
		"links[3].zone": first + 6, "links[3].peers[0]": first + 5, "links[3].peers[1]": first + 5,
		"links[4].budget": first + 8, "links[5].budget": first + 10, "links[6].peers[0]": first + 11,
	}
	if len(m.List) > len(want) {
		t.Errorf("something is told twice: %v", m)
	}
	for _, e := range m.List {
		if want[e.Field] != e.Line {
			t.Errorf("%s: %s, line %d, want line %d", e.Field, e.Want, e.Line, want[e.Field])
		}
		delete(want, e.Field)
	}
	if len(want) > 0 {
		t.Errorf("not told: %v", want)
	}
}

func TestRates(t *testing.T) {
	for text, want := range map[string]Rate{"256B/s": 256, "2KiB/s": 2048, "1024MiB/s": 1 << 30, "3 KiB/s": 3072} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("%s: %d, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "2048", "0B/s", "255B/s", "1025MiB/s", "-1KiB/s", "2KB/s", "999999999999MiB/s", "1.5KiB/s"} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, r)
		}
	}
}
