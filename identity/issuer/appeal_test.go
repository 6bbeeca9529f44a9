package issuer_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// A node that gets nothing is heard, once its machine is proven, and still gets nothing.
func TestAppeal(t *testing.T) {
	var mu sync.Mutex
	var heard []issuer.Appeal
	answer := error(nil)
	r := newRegion(t, func(c *issuer.Config) {
		c.Appeal = func(_ context.Context, a issuer.Appeal) error {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, a)
			return answer
		}
	})
	says := func(note string) error { return spire.Appeal(t.Context(), r.cfg, r.machine, r.machine.key, note) }

	if err := says("a copy ran"); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "nothing is held against "+n1.String()) {
		t.Errorf("in good standing: %v", err)
	}
	r.quarantine(n1)
	if err := says("a copy ran"); err != nil {
		t.Fatal(err)
	}
	if want := (issuer.Appeal{Node: n1, Note: "a copy ran", EKHash: [32]byte{7}, Resets: 3}); len(heard) != 1 || heard[0] != want {
		t.Fatalf("heard %+v, want %+v", heard, want)
	}
	if l := r.leaves(); l["issuer.attest true"] != 1 || l["issuer.issue agent"] != 0 {
		t.Errorf("leaves: %v; want the appeal, and nothing issued", l)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("after an appeal: %v", err)
	}
	if err := says(strings.Repeat("x", 1025)); !errors.Is(err, spire.ErrRefused) || len(heard) != 1 {
		t.Errorf("a note without bounds: %v, heard %d", err, len(heard))
	}
	r.machine.wrongAnswer = true
	if err := says("I am another"); !errors.Is(err, spire.ErrRefused) || len(heard) != 1 {
		t.Errorf("a machine that proves nothing: %v, heard %d", err, len(heard))
	}
	r.machine.wrongAnswer = false
	answer = issuer.ErrAuthorityAway
	if err := says("is anybody there"); !errors.Is(err, spire.ErrUnreachable) {
		t.Errorf("the authority is away: %v, want %v", err, spire.ErrUnreachable)
	}
	answer = errors.New("too soon")
	if err := says("hello"); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "too soon") {
		t.Errorf("the authority says no: %v", err)
	}
}

// An issuer that has nobody to take appeals to says so, and lets nobody in by one.
func TestNoAppeals(t *testing.T) {
	r := newRegion(t, nil)
	r.quarantine(n1)
	if err := spire.Appeal(t.Context(), r.cfg, r.machine, r.machine.key, "a copy ran"); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("got %v, want %v", err, spire.ErrRefused)
	}
	if l := r.leaves(); l["issuer.issue agent"] != 0 {
		t.Errorf("leaves: %v", l)
	}
}
