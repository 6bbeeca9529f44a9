package summary

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrOld means a newer summary of the gateway is held. Late relays do this in
	// good faith.
	ErrOld = errors.New("summary is older than the one held")

	// ErrContradiction means a gateway signed two different summaries of one
	// epoch and number. The first one is kept.
	ErrContradiction = errors.New("gateway signed two different summaries under one number")

	// ErrFull means the tracker holds as many gateways as it can.
	ErrFull = errors.New("too many gateways")
)

const maxGateways = 256

// Tracker holds the newest summary of each gateway. Its methods may be called
// from any goroutine. The zero value refuses everything.
type Tracker struct {
	keys KeyFunc

	mu     sync.RWMutex // guards newest, for map work only
	newest map[spiffeid.ID]Entry
}

// Entry is a summary and when this node took it in.
type Entry struct {
	Summary
	Received time.Time
}

// Age is how long ago the newest summary of the gateway came.
func (e Entry) Age(now time.Time) time.Duration { return max(0, now.Sub(e.Received)) }

// NewTracker returns an empty tracker.
func NewTracker(keys KeyFunc) *Tracker {
	return &Tracker{keys: keys, newest: map[spiffeid.ID]Entry{}}
}

// Add verifies a carried summary and keeps it if it is its gateway's newest.
// changed is false when it is held already. Errors wrap those of Verify, ErrOld,
// ErrContradiction or ErrFull.
func (t *Tracker) Add(now time.Time, raw []byte) (s Summary, changed bool, err error) {
	s, err = Verify(bytes.Clone(raw), t.keys)
	if err != nil {
		return Summary{}, false, err
	}
	changed, err = t.add(now, s)
	return s, changed, err
}

func (t *Tracker) add(now time.Time, s Summary) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	have, ok := t.newest[s.Gateway]
	if !ok && len(t.newest) >= maxGateways {
		return false, fmt.Errorf("%w: %d", ErrFull, maxGateways)
	}
	switch order := cmp.Or(cmp.Compare(s.Epoch, have.Epoch), cmp.Compare(s.Number, have.Number)); {
	case !ok || order > 0:
		t.newest[s.Gateway] = Entry{s, now}
		return true, nil
	case order < 0:
		return false, fmt.Errorf("%w: %s has %d/%d, got %d/%d", ErrOld, s.Gateway, have.Epoch, have.Number, s.Epoch, s.Number)
	case !same(have.Summary, s):
		return false, fmt.Errorf("%w: %s, %d/%d", ErrContradiction, s.Gateway, s.Epoch, s.Number)
	}
	return false, nil
}

// same compares what was signed; signatures of one payload may differ.
func same(a, b Summary) bool {
	return bytes.Equal(payloadOf(a.Raw), payloadOf(b.Raw))
}

// Entries returns the newest summary of each gateway, sorted by gateway.
func (t *Tracker) Entries() []Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.newest), func(a, b Entry) int {
		return strings.Compare(a.Gateway.String(), b.Gateway.String())
	})
}

// Region returns the summary of a trust domain that was received last, of any
// of its gateways.
func (t *Tracker) Region(td spiffeid.TrustDomain) (Entry, bool) {
	var newest Entry
	for _, e := range t.Entries() {
		if e.Gateway.TrustDomain() == td && (newest.Gateway.IsZero() || e.Received.After(newest.Received)) {
			newest = e
		}
	}
	return newest, !newest.Gateway.IsZero()
}

// Regions returns the freshest summary of each trust domain, sorted by region label.
func (t *Tracker) Regions() []Entry {
	fresh := map[spiffeid.TrustDomain]Entry{}
	for _, e := range t.Entries() {
		td := e.Gateway.TrustDomain()
		if have, ok := fresh[td]; !ok || e.Received.After(have.Received) {
			fresh[td] = e
		}
	}
	return slices.SortedFunc(maps.Values(fresh), func(a, b Entry) int {
		return cmp.Or(strings.Compare(a.Region, b.Region), strings.Compare(a.Gateway.String(), b.Gateway.String()))
	})
}
