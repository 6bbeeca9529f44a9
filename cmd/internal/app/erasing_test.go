package app

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Payloads of a kind go when they are older than the kind is kept for, to the day, and no others do.
func TestPayloadsGoByAge(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	keys, err := payload.Open(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 23, 30, 0, 0, time.UTC)
	boxes := map[policy.Kind]map[int]payload.Box{policy.Connect: {}, policy.Admin: {}, policy.Replicate: {}}
	for kind, of := range boxes {
		for ago := range 9 {
			if of[ago], err = keys.Seal(payload.Scope{Kind: string(kind)}, now.Add(time.Duration(-24*ago)*time.Hour), "n", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	told := 0
	rules := []config.PayloadRetention{{Kinds: []policy.Kind{policy.Connect}, For: 3}, {Kinds: []policy.Kind{policy.Admin}, For: 7}}
	for range 2 { // the second time there is nothing left to do
		for _, o := range expired(rules, now) {
			if _, err := keys.Erase(o, now, func(*store.Tx, payload.Order) error { told++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if told != 2 {
		t.Errorf("%d orders were recorded", told)
	}
	for kind, keep := range map[policy.Kind]int{policy.Connect: 3, policy.Admin: 7, policy.Replicate: 100} {
		for ago, b := range boxes[kind] {
			if _, err := keys.Open(b, "n"); errors.Is(err, payload.ErrErased) != (ago > keep) {
				t.Errorf("%s of %d days ago: %v", kind, ago, err)
			}
		}
	}
}
