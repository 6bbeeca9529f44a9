package identity

import (
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestParseNode(t *testing.T) {
	for _, c := range []struct{ id, zone, name, domain string }{
		{"spiffe://east.dev.example/node/n1", "", "n1", "node/n1"},
		{"spiffe://east.dev.example/zone/z1/node/n1", "z1", "n1", "zone/z1"},
		{"spiffe://east.dev.example", "", "", ""},
		{"spiffe://east.dev.example/node", "", "", ""},
		{"spiffe://east.dev.example/workload/shop", "", "", ""},
		{"spiffe://east.dev.example/node/n1/x", "", "", ""},
		{"spiffe://east.dev.example/zone/z1/workload/n1", "", "", ""},
	} {
		n, err := ParseNode(spiffeid.RequireFromString(c.id))
		if c.name == "" {
			if !errors.Is(err, ErrNotNode) {
				t.Errorf("%s: %v, want ErrNotNode", c.id, err)
			}
			continue
		}
		if err != nil || n.Zone != c.zone || n.Name != c.name || n.FailureDomain() != c.domain {
			t.Errorf("%s: %+v, %v", c.id, n, err)
		}
	}
}

func TestRenewalDue(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	seen := map[time.Time]bool{}
	for seed := range uint64(50) {
		r := Renewal{NotBefore: t0, NotAfter: t0.Add(time.Hour), Seed: seed}
		due := r.Due()
		if due.Before(t0.Add(24*time.Minute)) || due.After(t0.Add(36*time.Minute)) {
			t.Errorf("seed %d: due %v after the start of an hour", seed, due.Sub(t0))
		}
		if due != r.Due() {
			t.Errorf("seed %d: two answers", seed)
		}
		seen[due] = true
	}
	if len(seen) < 40 {
		t.Errorf("50 seeds gave %d different times", len(seen))
	}
	if due := (Renewal{NotBefore: t0, NotAfter: t0}).Due(); due != t0 {
		t.Errorf("no life: due %v", due)
	}
}

// A credential that has just come is not due, however its validity was dated.
func TestRenewalIsNotDueAtOnce(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name        string
		before, got time.Duration // after t0
		left        time.Duration // after got
		lo, hi      time.Duration // after got
	}{
		{"an hour, dated back", -10 * time.Second, 0, time.Hour, 24 * time.Minute, 36 * time.Minute},
		{"seconds, dated back", -10 * time.Second, 0, 10 * time.Second, 4 * time.Second, 6 * time.Second},
		{"a clock that is ahead", 0, 50 * time.Minute, 10 * time.Minute, 4 * time.Minute, 6 * time.Minute},
		{"a clock that is behind", time.Minute, 0, time.Hour + time.Minute, 24 * time.Minute, 40 * time.Minute},
		{"hardly any life", 0, 0, time.Millisecond, time.Second, time.Second},
		{"over when it came", 0, 2 * time.Hour, -time.Hour, time.Second, time.Second},
	} {
		for seed := range uint64(20) {
			got := t0.Add(c.got)
			r := Renewal{NotBefore: t0.Add(c.before), NotAfter: got.Add(c.left), Got: got, Seed: seed}
			if due := r.Due().Sub(got); due < c.lo || due > c.hi {
				t.Errorf("%s, seed %d: due %v after it came, want %v to %v", c.name, seed, due, c.lo, c.hi)
			}
		}
	}
}

func TestRenewalRetry(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := Renewal{NotBefore: t0, NotAfter: t0.Add(time.Hour), Seed: 7}
	for _, c := range []struct {
		name     string
		now      time.Duration
		failures int
		lo, hi   time.Duration // after t0
	}{
		{"first", 0, 1, 750 * time.Millisecond, 1250 * time.Millisecond},
		{"no failure counts as one", 0, 0, 750 * time.Millisecond, 1250 * time.Millisecond},
		{"third", 0, 3, 3 * time.Second, 5 * time.Second},
		{"many", 0, 1000, 90 * time.Second, 150 * time.Second},
		{"once more before the expiry", time.Hour - 100*time.Second, 20, time.Hour - 50*time.Second, time.Hour},
		{"and not again", time.Hour - 10*time.Second, 20, time.Hour + 80*time.Second, time.Hour + 140*time.Second},
		{"after the expiry it goes on", 2 * time.Hour, 1, 2*time.Hour + 750*time.Millisecond, 2*time.Hour + 1250*time.Millisecond},
	} {
		at := r.Retry(t0.Add(c.now), c.failures).Sub(t0)
		if at < c.lo || at > c.hi {
			t.Errorf("%s: retry at %v, want %v to %v", c.name, at, c.lo, c.hi)
		}
	}
	if r.Expired(t0.Add(time.Hour-1)) || !r.Expired(t0.Add(time.Hour)) {
		t.Error("a credential expires at NotAfter")
	}
	if !(Renewal{}).Expired(t0) {
		t.Error("the zero value must be expired")
	}
}

func TestCredentialTellsWhoWaits(t *testing.T) {
	var c Credential
	if _, err := c.GetX509SVID(); !errors.Is(err, ErrNoSVID) {
		t.Fatal(err)
	}
	ch := c.Changed()
	svid := newTestCA(t, "east.dev.example").svid(t, nil)
	c.Set(svid)
	<-ch
	if got, err := c.GetX509SVID(); err != nil || got != svid {
		t.Fatal(got, err)
	}
}
