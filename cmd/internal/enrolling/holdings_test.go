package enrolling

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestRenewalWaitsForEpochsOnlyAsLongAsItCan(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for left, want := range map[time.Duration]time.Duration{
		time.Hour:        enrolTimeout,
		20 * time.Second: 5 * time.Second,
		2 * time.Second:  time.Second,
		-time.Minute:     time.Second,
	} {
		h := Holdings{Node: &x509svid.SVID{Certificates: []*x509.Certificate{{NotAfter: now.Add(left)}}}}
		if got := h.patience(now); got != want {
			t.Errorf("with %v left: %v, want %v", left, got, want)
		}
	}
	if got := (Holdings{}).patience(now); got != enrolTimeout {
		t.Errorf("a node without an SVID has nothing to lose by waiting, and waits %v", got)
	}
}
