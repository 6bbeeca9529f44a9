package travel

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// Effective is one level that is in force on a node.
type Effective struct {
	Slot
	Version uint64
	Name    [8]byte // the first bytes of bundle.Verified.Name
}

// Gap is a level at which a node does not enforce what it should.
type Gap struct {
	Slot
	Want, Have uint64 // Have is 0 where it has none, and equals Want where it has another record of the version
}

// String says a gap in a few words.
func (g Gap) String() string {
	switch g.Have {
	case 0:
		return fmt.Sprintf("%s: has none, want %d", g.Level, g.Want)
	case g.Want:
		return fmt.Sprintf("%s: has another record of version %d", g.Level, g.Want)
	}
	return fmt.Sprintf("%s: has %d, want %d", g.Level, g.Have, g.Want)
}

// Desired is what should be in force of the records known: of each slot the newest enforced one
// that holds at now, by the first bytes of its name; of one version that with the lower name.
type Desired map[Slot]struct {
	Version uint64
	Name    [8]byte
}

// Want takes in a record that verified.
func (d Desired) Want(r *bundle.Record, name [32]byte, now time.Time) {
	slot := Slot{r.Level, r.Scope}
	if r.Mode != bundle.Enforce || r.NotBefore > now.Unix() || r.NotAfter < now.Unix() || r.Version < d[slot].Version {
		return
	}
	if had := d[slot]; r.Version == had.Version && bytes.Compare(name[:8], had.Name[:]) >= 0 {
		return
	}
	d[slot] = struct {
		Version uint64
		Name    [8]byte
	}{r.Version, [8]byte(name[:])}
}

// Gaps compares what a node enforces with what it should at its slots. A newer version than is
// known here is no gap: the record of it is on its way.
func (d Desired) Gaps(slots []Slot, have []Effective) (out []Gap) {
	for _, slot := range slots {
		want, wanted := d[slot]
		if !wanted {
			continue
		}
		g := Gap{Slot: slot, Want: want.Version}
		i := slices.IndexFunc(have, func(e Effective) bool { return e.Slot == slot })
		if i >= 0 {
			g.Have = have[i].Version
			if g.Have > want.Version || g.Have == want.Version && have[i].Name == want.Name {
				continue
			}
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Gap) int { return strings.Compare(a.Level, b.Level) })
	return out
}
