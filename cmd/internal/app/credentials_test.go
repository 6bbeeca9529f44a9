package app

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
)

// enrolling runs the loop of credentials that hold an SVID for an hour, with the
// given answers of the issuer, the last one for ever. It returns when each
// enrolment was tried, counted from now.
func enrolling(t *testing.T, span time.Duration, during func(*credentials), answers ...error) (tried []time.Duration) {
	t.Helper()
	start := time.Now()
	c := newCredentials(config.Config{Node: liar}, nil, nil, nil, nil, slog.New(slog.DiscardHandler))
	c.held.node = &x509svid.SVID{ID: liar, Certificates: []*x509.Certificate{{NotBefore: start, NotAfter: start.Add(time.Hour)}}}
	c.enrol = func(context.Context) error {
		tried = append(tried, time.Since(start))
		err := answers[0]
		answers = answers[min(1, len(answers)-1):]
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.run(ctx) }()
	during(c)
	time.Sleep(span) // in a bubble
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return tried
}

// TestWantedEnrolment: what only an issuer can help with does not wait until
// renewal is due, nor does it press the issuer.
func TestWantedEnrolment(t *testing.T) {
	refused := errors.New("refused")
	for name, c := range map[string]struct {
		span    time.Duration
		during  func(*credentials)
		answers []error
		check   func([]time.Duration) bool
	}{
		"nothing wanted":       {10 * time.Minute, func(*credentials) {}, []error{nil}, func(at []time.Duration) bool { return len(at) == 0 }},
		"at once, and once":    {10 * time.Minute, func(c *credentials) { c.want(); c.want() }, []error{nil}, func(at []time.Duration) bool { return slices.Equal(at, []time.Duration{0}) }},
		"tried until it works": {10 * time.Minute, (*credentials).want, []error{refused, refused, nil}, func(at []time.Duration) bool { return len(at) == 3 && at[2] < 10*time.Second }},
		"wanted for ever": {time.Minute, func(c *credentials) {
			go func() {
				for range 600 {
					c.want()
					time.Sleep(100 * time.Millisecond)
				}
			}()
		}, []error{nil}, func(at []time.Duration) bool { return len(at) >= 4 && len(at) <= 5 }},
		"released meanwhile": {time.Minute, func(c *credentials) {
			c.want()
			time.AfterFunc(40*time.Second, c.wantAfresh)
		}, []error{refused}, func(at []time.Duration) bool { return slices.Contains(at, 40*time.Second) }},
		"refused for ever": {time.Hour / 4, (*credentials).want, []error{refused}, func(at []time.Duration) bool { return len(at) > 5 && len(at) < 20 }},
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

// TestEarlyFailureIsNotOverdue: a try that was asked for early and failed leaves
// the identity as fresh as it was, and says why it failed.
func TestEarlyFailureIsNotOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		enrolling(t, time.Second, func(c *credentials) {
			if err := c.attest(t.Context()); !errors.Is(err, refused) {
				t.Error(err)
			}
			synctest.Wait()
			if overdue, err := c.trouble(); !overdue.IsZero() || !errors.Is(err, refused) {
				t.Errorf("overdue since %v, %v", overdue, err)
			}
		}, refused)
	})
}
