package enrolling

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// next is the region's record, one version on.
func (r *testRegion) next(before trust.Record) []byte {
	before.Version++
	raw, err := trust.Sign(before, r.global)
	r.must(err)
	return raw
}

func told(t *testing.T, st *store.Store) int {
	t.Helper()
	leaves, err := st.Outbox(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(leaves, func(e store.Entry) bool { return e.Kind != trail.IdentityTrust.Name() }))
}

// TestTrustIsToldOnce: a record is in the trail before it is in force, and once.
func TestTrustIsToldOnce(t *testing.T) {
	r := newTestRegion(t, nil)
	set, err := trust.NewSet([]*ecdsa.PublicKey{&r.global.PublicKey}, 1)
	r.must(err)
	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	record, news, err := takeTrust(set, st, r.record, "file", time.Now())
	if err != nil || !news || told(t, st) != 1 {
		t.Fatalf("first: %v, %v, %d leaves", news, err, told(t, st))
	}
	second := r.next(record)
	for range 2 {
		r.must(tellKnownTrust(set, st)) // as at every start
	}
	if _, news, err := takeTrust(set, st, second, "issuer", time.Now()); err != nil || !news || told(t, st) != 2 {
		t.Errorf("second: %v, %v, %d leaves", news, err, told(t, st))
	}
	for _, raw := range [][]byte{r.record, second} {
		if _, news, err := takeTrust(set, st, raw, "issuer", time.Now()); err != nil || news || told(t, st) != 2 {
			t.Errorf("again: %v, %v, %d leaves", news, err, told(t, st))
		}
	}
	if _, _, err := takeTrust(set, st, []byte("x"), "issuer", time.Now()); err == nil || told(t, st) != 2 {
		t.Errorf("nonsense: %v, %d leaves", err, told(t, st))
	}
}

// TestTrustNotToldIsNotInForce: also where the disk has it and says it has not.
func TestTrustNotToldIsNotInForce(t *testing.T) {
	for name, fault := range map[string]store.Fault{"before": store.FaultBefore, "after": store.FaultAfter} {
		t.Run(name, func(t *testing.T) {
			r := newTestRegion(t, nil)
			set, err := trust.NewSet([]*ecdsa.PublicKey{&r.global.PublicKey}, 1)
			r.must(err)
			path := filepath.Join(t.TempDir(), "state.db")
			broken, err := store.OpenFaulty(path, func(int) store.Fault { return fault })
			r.must(err)
			_, news, err := takeTrust(set, broken, r.record, "file", time.Now())
			if err == nil || news || len(set.Regions()) != 0 {
				t.Errorf("taken over: %v, %v", news, err)
			}
			r.must(errors.Join(broken.Close()))
			st := openStore(t, path)
			if _, news, err := takeTrust(set, st, r.record, "file", time.Now()); err != nil || !news || told(t, st) != 1 {
				t.Errorf("after a restart: %v, %v, %d leaves", news, err, told(t, st))
			}
		})
	}
}

// TestRecordsOfAnybody: what an answer holds that no global key signed ends it, costs a
// line of the log, and takes nothing else with it.
func TestRecordsOfAnybody(t *testing.T) {
	r := newTestRegion(t, nil)
	record, _, err := trust.Read(r.record)
	r.must(err)
	expired := record
	expired.Version, expired.NotBefore, expired.NotAfter = 2, record.NotBefore.Add(-time.Hour), record.NotBefore
	old, err := trust.Sign(expired, r.global)
	r.must(err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx     context.Context
		records [][]byte
		news    bool
		lines   int
	}{
		"a flood":            {t.Context(), make([][]byte, 1<<19), false, 1},
		"behind rubbish":     {t.Context(), [][]byte{{}, r.record}, false, 1},
		"before rubbish":     {t.Context(), [][]byte{r.record, {}, {}}, true, 1},
		"behind an old one":  {t.Context(), [][]byte{old, old, r.record}, true, 1},
		"too far behind":     {t.Context(), append(slices.Repeat([][]byte{old}, spire.MaxTrustRecords), r.record), false, 1},
		"nobody waits":       {gone, [][]byte{r.record}, false, 0},
		"known":              {t.Context(), [][]byte{r.record, r.record}, true, 0},
		"nothing in the end": {t.Context(), nil, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := trust.NewSet([]*ecdsa.PublicKey{&r.global.PublicKey}, 1)
			r.must(err)
			var log bytes.Buffer
			creds := &Credentials{trust: set, st: openStore(t, filepath.Join(t.TempDir(), "state.db")), log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
			news := creds.takeRecords(c.ctx, c.records, "anybody")
			if lines := strings.Count(log.String(), "\n"); news != c.news || lines != c.lines {
				t.Errorf("news %v, want %v; %d lines of log, want %d: %.200s", news, c.news, lines, c.lines, log.String())
			}
		})
	}
}
