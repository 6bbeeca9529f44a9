package enrolling

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
)

// enrolling runs the loop of credentials that hold an SVID for an hour, with the
// given answers of the issuer, the last one for ever. It returns when each
// enrolment was tried, counted from now.
func enrolling(t *testing.T, span time.Duration, during func(*Credentials), answers ...error) (tried []time.Duration) {
	t.Helper()
	start := time.Now()
	c := New(Config{Node: config.Config{Node: liar}, Log: slog.New(slog.DiscardHandler)})
	c.held.Node = &x509svid.SVID{ID: liar, Certificates: []*x509.Certificate{{NotBefore: start, NotAfter: start.Add(time.Hour)}}}
	c.enrol = func(context.Context) error {
		tried = append(tried, time.Since(start))
		err := answers[0]
		answers = answers[min(1, len(answers)-1):]
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	during(c)
	time.Sleep(span) // in a bubble
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return tried
}

// Nothing that was issued is kept, on disk or in memory, before the trail tells of the trust
// that it rests on.
func TestNothingIsKeptUntold(t *testing.T) {
	r := newTestRegion(t, nil, tokenAgent(t))
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	r.must(err)
	defer st.Close()
	c := r.start(r.config(filepath.Join(t.TempDir(), "state")), st)
	broken := errors.New("no room in the trail")
	c.told = func() error { return broken }
	if err := c.renew(t.Context()); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	if held, err := c.vault.load(c.machine); err != nil || held.agent != nil || held.Node != nil || c.Now().Node != nil {
		t.Errorf("kept on disk: agent %v, node %v, %v; in memory: node %v", held.agent != nil, held.Node != nil, err, c.Now().Node != nil)
	}
	c.told = func() error { return nil }
	r.must(c.renew(t.Context())) // the same token, as the first answer was lost
	if held, err := c.vault.load(c.machine); err != nil || held.Node == nil {
		t.Errorf("nothing is kept: %v", err)
	}
}

// What an issuer says of policy is told before anything else of an enrolment is used, and where
// that fails nothing of it is.
func TestPolicyHeadsComeFirst(t *testing.T) {
	r := newTestRegion(t, nil, tokenAgent(t))
	r.heads = [][]byte{[]byte("global"), []byte("regional")}
	dir := t.TempDir()
	c := r.start(r.config(dir), openStore(t, filepath.Join(dir, "state.db")))
	broken := errors.New("no room for a floor")
	c.policyHeads = func([][]byte) error { return broken }
	if err := c.renew(t.Context()); !errors.Is(err, broken) || c.Now().Node != nil || c.Now().InUse != 0 {
		t.Errorf("%v; node %v, epoch %d", err, c.Now().Node != nil, c.Now().InUse)
	}
	var told [][]byte
	c.policyHeads = func(heads [][]byte) error {
		told = heads
		return nil
	}
	r.must(c.renew(t.Context()))
	complete(t, c)
	if !slices.EqualFunc(told, r.heads, bytes.Equal) {
		t.Errorf("told %q, want %q", told, r.heads)
	}
}

// TestWantedEnrolment: what only an issuer can help with does not wait until
// renewal is due, nor does it press the issuer.
func TestWantedEnrolment(t *testing.T) {
	refused := errors.New("refused")
	for name, c := range map[string]struct {
		span    time.Duration
		during  func(*Credentials)
		answers []error
		check   func([]time.Duration) bool
	}{
		"nothing wanted":       {10 * time.Minute, func(*Credentials) {}, []error{nil}, func(at []time.Duration) bool { return len(at) == 0 }},
		"at once, and once":    {10 * time.Minute, func(c *Credentials) { c.Want(); c.Want() }, []error{nil}, func(at []time.Duration) bool { return slices.Equal(at, []time.Duration{0}) }},
		"tried until it works": {10 * time.Minute, (*Credentials).Want, []error{refused, refused, nil}, func(at []time.Duration) bool { return len(at) == 3 && at[2] < 10*time.Second }},
		"wanted for ever": {time.Minute, func(c *Credentials) {
			go func() {
				for range 600 {
					c.Want()
					time.Sleep(100 * time.Millisecond)
				}
			}()
		}, []error{nil}, func(at []time.Duration) bool { return len(at) >= 4 && len(at) <= 5 }},
		"released meanwhile": {time.Minute, func(c *Credentials) {
			c.Want()
			time.AfterFunc(40*time.Second, c.WantAfresh)
		}, []error{refused}, func(at []time.Duration) bool { return slices.Contains(at, 40*time.Second) }},
		"refused for ever": {time.Hour / 4, (*Credentials).Want, []error{refused}, func(at []time.Duration) bool { return len(at) > 5 && len(at) < 20 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if at := enrolling(t, c.span, c.during, c.answers...); !c.check(at) {
					t.Errorf("tried at %v", at)
				}
			})
		})
	}
}

// What has just been issued is not asked for again: not where SVIDs live for seconds, and issuers
// date them back as far as that; not by a clock that is ahead.
func TestShortLivesAreNoLoop(t *testing.T) {
	for name, c := range map[string]struct {
		back, left time.Duration // of an SVID that has just come
		agent      time.Duration // left of the agent SVID; 0: as the others
		most       int           // enrolments a minute
	}{
		"seconds, dated back":        {back: 10 * time.Second, left: 10 * time.Second, most: 15},
		"an hour, a clock ahead":     {back: 45 * time.Minute, left: 15 * time.Minute, most: 1},
		"seconds left, clock ahead":  {back: time.Hour, left: 2 * time.Second, most: 61},
		"the agent's ends first":     {back: 10 * time.Second, left: time.Hour, agent: 10 * time.Second, most: 15},
		"none left, by a wild clock": {back: time.Hour, left: -time.Hour, most: 61},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				tried := 0
				creds := New(Config{Node: config.Config{Node: liar}, Log: slog.New(slog.DiscardHandler)})
				creds.enrol = func(context.Context) error {
					if tried++; tried > 100 {
						cancel()
					}
					now := time.Now()
					svid := func(left time.Duration) *x509svid.SVID {
						return &x509svid.SVID{ID: liar, Certificates: []*x509.Certificate{{NotBefore: now.Add(-c.back), NotAfter: now.Add(left)}}}
					}
					creds.set(Holdings{Node: svid(c.left), At: now, agent: svid(cmp.Or(c.agent, c.left)), admitted: now})
					return nil
				}
				if err := creds.Run(ctx); err != nil {
					t.Error(err)
				}
				if tried == 0 || tried > c.most {
					t.Errorf("enrolled %d times in a minute, want at most %d", tried, c.most)
				}
			})
		})
	}
}

// TestEarlyFailureIsNotOverdue: a try that was asked for early and failed leaves
// the identity as fresh as it was, and says why it failed.
func TestEarlyFailureIsNotOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		enrolling(t, time.Second, func(c *Credentials) {
			if err := c.Attest(t.Context()); !errors.Is(err, refused) {
				t.Error(err)
			}
			synctest.Wait()
			if overdue, err := c.Trouble(); !overdue.IsZero() || !errors.Is(err, refused) {
				t.Errorf("overdue since %v, %v", overdue, err)
			}
		}, refused)
	})
}
