package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

func place(region, zone, name string) Place {
	path := "/node/" + name
	if zone != "" {
		path = "/zone/" + zone + path
	}
	id := spiffeid.RequireFromString("spiffe://" + region + ".example" + path)
	return Place{Node: id, Zone: zone, Region: region}
}

// owner is built from words: region/zone/name, then a health, a standing, an RTT.
func owner(t *testing.T, words string) Owner {
	t.Helper()
	f := strings.Fields(words)
	at := strings.Split(f[0], "/")
	o := Owner{Place: place(at[0], at[1], at[2]), Health: Healthy}
	for _, w := range f[1:] {
		if d, err := time.ParseDuration(w); err == nil {
			o.RTT = d
			continue
		}
		switch w {
		case "unknown":
			o.Health = Unknown
		case "unhealthy":
			o.Health = Unhealthy
		case "watch":
			o.Standing = quarantine.Watch
		case "released":
			o.Standing = quarantine.Released
		case "held":
			o.Standing = quarantine.Held
		case "quarantined":
			o.Standing = quarantine.Quarantined
		case "revoked":
			o.Standing = quarantine.Revoked
		default:
			t.Fatalf("word %q", w)
		}
	}
	return o
}

func TestChoose(t *testing.T) {
	here := place("east", "z1", "me")
	for _, tc := range []struct {
		name   string
		owners []string
		want   string
	}{
		{"none", nil, ""},
		{"nearest first", []string{"west//a", "east/z2/b", "east//c 1ms", "east/z1/d", "east/z1/me"}, "me d c b a"},
		{"nearest before fastest", []string{"west//a 1ms", "east/z1/b 90ms"}, "b a"},
		{"zone names are of their region", []string{"west/z1/a 1ms", "east/z2/b 9ms"}, "b a"},
		{"fastest at one distance", []string{"east/z1/a 40ms", "east/z1/b 2ms", "east/z1/c"}, "b a c"},
		{"healthy before unknown", []string{"east/z1/a unknown 1ms", "east/z1/b 9ms"}, "b a"},
		{"unknown near before healthy far", []string{"west//a", "east/z1/b unknown"}, "b a"},
		{"unhealthy is ejected", []string{"east/z1/me unhealthy", "west//b"}, "b"},
		{"at most half are ejected, the rest last", []string{"east/z1/me unhealthy", "east/z2/b unhealthy", "west//c"}, "c me"},
		{"all unhealthy", []string{"east/z1/me unhealthy", "west//b unhealthy"}, "me"},
		{"one, unhealthy", []string{"east/z1/b unhealthy"}, "b"},
		{"contained are out, whatever their health", []string{"east/z1/a held", "east/z1/b quarantined", "east/z1/c revoked", "west//d"}, "d"},
		{"all contained", []string{"east/z1/a held", "west//b quarantined"}, ""},
		{"contained do not count for the half", []string{"east/z1/a held", "east/z1/b held", "east/z1/c unhealthy"}, "c"},
		{"watched and released are owners", []string{"east/z1/a watch", "west//b released"}, "a b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var owners []Owner
			for _, words := range tc.owners {
				owners = append(owners, owner(t, words))
			}
			for range 5 {
				rand.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
				before := slices.Clone(owners)
				if got := names(Choose(here, owners)); got != tc.want {
					t.Fatalf("got %q, want %q", got, tc.want)
				}
				if !slices.Equal(before, owners) {
					t.Fatal("argument was changed")
				}
			}
		})
	}
}

func names(owners []Owner) string {
	var out []string
	for _, o := range owners {
		path := o.Node.Path()
		out = append(out, path[strings.LastIndexByte(path, '/')+1:])
	}
	return strings.Join(out, " ")
}

func TestNoZoneIsNoCommonZone(t *testing.T) {
	here, there := place("east", "", "a"), place("east", "", "b")
	if d := distance(here, there); d != 2 {
		t.Errorf("distance %d, want 2", d)
	}
}

func TestUnknownStandingIsOut(t *testing.T) {
	o := owner(t, "east/z1/a")
	o.Standing = quarantine.Standing(99)
	if got := Choose(o.Place, []Owner{o}); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// Equal owners are spread over the fleet, and one node keeps its choice while
// the round-trip time wavers.
func TestSpread(t *testing.T) {
	first := map[string]int{}
	for i := range 64 {
		here := place("east", "", fmt.Sprint("me", i))
		owners := []Owner{owner(t, "west//a 50ms"), owner(t, "west//b 50ms"), owner(t, "west//c 50ms")}
		got := names(Choose(here, owners)[:1])
		first[got]++
		owners[0].RTT, owners[1].RTT = 60*time.Millisecond, 40*time.Millisecond
		if again := names(Choose(here, owners)[:1]); again != got {
			t.Errorf("%s became %s", got, again)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		if first[name] < 8 {
			t.Errorf("first choices %v", first)
			break
		}
	}
}
