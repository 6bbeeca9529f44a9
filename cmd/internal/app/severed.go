package app

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// severedBucket has what was cut last of each identity: SPIFFE ID -> severed, in JSON.
const severedBucket = "quarantine/cut"

// severed is what was live with an identity when its sessions were cut.
type severed struct {
	Links       int           `json:"links"`       // of nodes
	Tunnels     int           `json:"tunnels"`     // of workloads
	Connections int           `json:"connections"` // of clients, over the tunnels
	At          time.Time     `json:"at"`          // when this node heard of the cause
	Took        time.Duration `json:"took"`        // from then until the last of them had ended

	by time.Time // when the last had ended; zero: now
}

// String says what was cut, in words for an operator.
func (s severed) String() string {
	var what []string
	for _, of := range []struct {
		n         int
		one, many string
	}{{s.Links, "link", "links"}, {s.Tunnels, "tunnel", "tunnels"}, {s.Connections, "connection of a client", "connections of clients"}} {
		switch of.n {
		case 0:
		case 1:
			what = append(what, "1 "+of.one)
		default:
			what = append(what, fmt.Sprint(of.n, " ", of.many))
		}
	}
	if len(what) == 0 {
		return "none of its sessions was open; new ones are refused"
	}
	return fmt.Sprintf("cut %s, the last after %s", strings.Join(what, ", "), s.Took.Round(10*time.Microsecond))
}

// cuts remembers whose sessions were cut, and measures how soon.
type cuts struct {
	now  map[spiffeid.ID]bool // whose are
	took prometheus.Histogram
}

func newCuts(reg prometheus.Registerer) cuts {
	return cuts{map[spiffeid.ID]bool{}, promauto.With(reg).NewHistogram(prometheus.HistogramOpts{
		Name:    "bailiwick_standing_cut_seconds",
		Help:    "Time from what shut a node out, as this node heard of it, until the last live connection with it had ended.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	})}
}

// note takes in what containing an identity did; it reports whether its sessions are cut since now.
func (c cuts) note(id spiffeid.ID, cut bool, was *severed, since time.Time) bool {
	before := c.now[id]
	c.now[id] = cut
	if !cut || before {
		return false
	}
	if was.by.IsZero() {
		was.by = time.Now()
	}
	was.At, was.Took = since, max(0, was.by.Sub(since))
	if was.Links+was.Tunnels+was.Connections > 0 {
		c.took.Observe(was.Took.Seconds())
	}
	return true
}

// keep writes what was cut, to be shown.
func (s severed) keep(tx *store.Tx, id spiffeid.ID) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return tx.Put(severedBucket, []byte(id.String()), b)
}

// lastCut is what was cut last of an identity.
func (s *standings) lastCut(id spiffeid.ID) (was severed, ok bool) {
	_ = s.st.View(func(tx *store.Tx) error { // what cannot be read is not shown
		ok = json.Unmarshal(tx.Get(severedBucket, []byte(id.String())), &was) == nil
		return nil
	})
	return was, ok
}
