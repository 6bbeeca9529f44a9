package issuer_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// TestPolicyJudgesWhatWasProved: policy has the last word, hears what was proved and of
// which type, and a token that it refuses is not spent.
func TestPolicyJudgesWhatWasProved(t *testing.T) {
	verdict, full := errors.New("rule unattested"), errors.New("no room for the verdict")
	var kinds []string
	r := newRegion(t, func(c *issuer.Config) {
		c.Attestors[0] = issuer.Judged{Attestor: c.Attestors[0], Judge: func(_ context.Context, kind string, proved issuer.Attested) (issuer.Record, error) {
			kinds = append(kinds, kind)
			if proved.Name == "" || proved.TPM {
				t.Errorf("judged: %+v", proved)
			}
			return func(*store.Tx) error { return full }, verdict
		}}
	})
	const secret = "a token long enough"
	r.token(secret, time.Minute)
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken("another"), newKey(t)); !errors.Is(err, spire.ErrRefused) || len(kinds) != 0 {
		t.Errorf("no evidence: %v, and policy was asked %d times", err, len(kinds))
	}
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken(secret), newKey(t)); !errors.Is(err, spire.ErrRefused) || len(kinds) != 1 || kinds[0] != "join_token" {
		t.Errorf("refused by policy: %v, asked of %q", err, kinds)
	}
	verdict = nil
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken(secret), newKey(t)); !errors.Is(err, spire.ErrUnreachable) {
		t.Errorf("a verdict that could not be recorded: %v", err)
	}
	full = nil
	if _, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken(secret), newKey(t)); err != nil {
		t.Errorf("a token that was refused before: %v", err)
	}
	var nobody issuer.Judged
	if _, err := nobody.Attest(t.Context(), issuer.Evidence{}, nil); !errors.Is(err, issuer.ErrAppraisal) {
		t.Errorf("the zero value: %v", err)
	}
}
