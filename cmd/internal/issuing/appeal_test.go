package issuing

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// The authority hears a quarantined node through any issuer of the region, knows which, and has
// the time by its own clock. Who is no issuer is not heard.
func TestAppealsReachTheAuthority(t *testing.T) {
	o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "state.db")))
	a := issuer.Appeal{Node: nodeN3, Note: "a copy ran", EKHash: [32]byte{7}, Resets: 1, Starts: 5, Epoch: 2}
	if err := here.Appeal(t.Context(), a); !errors.Is(err, quarantine.ErrAppeal) {
		t.Errorf("nobody takes appeals: %v", err)
	}
	heard := make(chan quarantine.Appeal, 1)
	o.Appeals = func(a quarantine.Appeal) error { heard <- a; return nil }
	for by, b := range map[spiffeid.ID]*Branch{nodeN1: here, nodeN2: there} {
		before := time.Now().Add(-time.Second)
		if err := b.Appeal(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		got := <-heard
		if got.At.Before(before) || got.By != by {
			t.Errorf("heard %+v, want it by %s, now", got, by)
		}
		got.At, got.By = time.Time{}, spiffeid.ID{}
		if want := (quarantine.Appeal{Accused: nodeN3, Note: "a copy ran", EKHash: [32]byte{7}, Resets: 1, Starts: 5, Epoch: 2}); got != want {
			t.Errorf("heard %+v, want %+v", got, want)
		}
	}
	for name, err := range map[string]error{
		"no issuer":      remote(t, o, nodeN3).Appeal(t.Context(), a),
		"another region": there.Appeal(t.Context(), issuer.Appeal{Node: spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), Note: "x"}),
		"no note":        there.Appeal(t.Context(), issuer.Appeal{Node: nodeN3}),
	} {
		if err == nil || len(heard) > 0 {
			t.Errorf("%s: %v, and was heard %d times", name, err, len(heard))
		}
	}
}
