package app

import (
	"context"
	"encoding/binary"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// A contact that was kept while the clock was ahead is no reason to overlook the next
// one: the node would take itself for cut off, with the authority in reach.
func TestContactAfterTheClockWasAhead(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	now := time.Now()
	if err := st.Update(func(tx *store.Tx) error {
		return tx.Put(leaseBucket, contactKey, binary.BigEndian.AppendUint64(nil, uint64(now.Add(48*time.Hour).UnixMilli())))
	}); err != nil {
		t.Fatal(err)
	}
	l := newLease(st, nil, spiffeid.RequireFromString("spiffe://east.dev.example/node/n1"))
	l.boot -= time.Hour // since when it runs
	if err := l.heard(now, now); err != nil {
		t.Fatal(err)
	}
	if gone := bootTime() - l.boot; !l.contact.Equal(now) || gone > time.Minute {
		t.Errorf("the last contact was %s from now, and counts for %s", l.contact.Sub(now), gone)
	}
	if err := l.heard(now.Add(-time.Minute), now); err != nil || !l.contact.Equal(now) {
		t.Errorf("an older contact takes the place of a newer one: %v", err)
	}
	if again := newLease(st, nil, l.self); again.contact.After(now) {
		t.Errorf("kept on disk: %s", again.contact)
	}
}

// A clock that is set while the authority is away changes nothing of how long it is away, by the boot
// clock at least: stale policy stays stale, and the lease neither ends at once nor begins anew.
func TestClockSetWhileCutOff(t *testing.T) {
	l := newLease(openStore(t, filepath.Join(t.TempDir(), "store")), nil, nodeN1)
	now := time.Now()
	if err := l.heard(now, now); err != nil {
		t.Fatal(err)
	}
	l.boot -= time.Hour // which has passed since
	for name, by := range map[string]time.Duration{"back": -3 * time.Hour, "back to 1970": -time.Duration(now.UnixNano()), "a little back": -time.Second, "not at all": 0} {
		set := now.Add(time.Hour + by)
		for range 2 { // seconds in which nobody is heard
			if err := l.heard(time.Time{}, set); err != nil {
				t.Fatal(err)
			}
		}
		if quiet := l.quiet(set); quiet < time.Hour || quiet > time.Hour+time.Minute || !l.contact.Equal(now) {
			t.Errorf("set %s: quiet for %s, the last contact at %s", name, quiet, l.contact)
		}
	}
	if quiet := l.quiet(now.Add(9 * time.Hour)); quiet < 9*time.Hour {
		t.Errorf("set ahead: quiet for %s", quiet)
	}
	if l.gone(now.Add(-time.Hour)) < l.current || !l.isolated() {
		t.Error("an hour away counts as a present contact")
	}
}

// Policy is told that the authority is out of reach once that is so, and before it was ever heard.
func TestIsolated(t *testing.T) {
	set, _ := testTrust(t)
	dir := newDirectory(nodeN1, set, &summary.Tracker{}, slog.New(slog.DiscardHandler))
	synctest.Test(t, func(t *testing.T) {
		l := &lease{dir: dir, self: nodeN1, contact: time.Now(), current: 3 * leaseEvery, boot: bootTime(), onMode: func(authority.Mode, authority.Mode) {}}
		if a := (&App{lease: l}); !a.isolated() || !(&App{}).isolated() {
			t.Error("in reach before anybody looked")
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = l.run(ctx) }()
		if synctest.Wait(); l.isolated() {
			t.Error("out of reach right after a contact")
		}
		time.Sleep(5 * leaseEvery)
		if synctest.Wait(); !l.isolated() {
			t.Error("in reach after five seconds without a contact")
		}
	})
}

// Who waits for the region's authority record does not wait for ever, nor past the end.
func TestSettledWithoutRecord(t *testing.T) {
	set, _ := testTrust(t)
	l := &lease{dir: newDirectory(nodeN1, set, &summary.Tracker{}, slog.New(slog.DiscardHandler)), self: nodeN1}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if !l.settled(t.Context()) || time.Since(began) != settleFor {
			t.Errorf("waited %s, want %s", time.Since(began), settleFor)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if l.settled(ctx) {
			t.Error("waits past the end")
		}
	})
}
