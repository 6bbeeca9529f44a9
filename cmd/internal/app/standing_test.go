package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

var (
	east  = spiffeid.RequireTrustDomainFromString("east.dev.example")
	liar  = spiffeid.RequireFromString("spiffe://east.dev.example/node/liar")
	other = spiffeid.RequireFromString("spiffe://east.dev.example/node/other")
)

// testStandings convicts liar on the evidence "proof", and anybody on "proof of" and the name.
func testStandings(st *store.Store) *standings {
	s := newStandings(quarantine.NewSet(east, quarantine.Checks{
		Evidence: func(b []byte) (quarantine.Finding, error) {
			if id, err := spiffeid.FromString(strings.TrimPrefix(string(b), "proof of ")); err == nil {
				return quarantine.Finding{Accused: id, Class: "equivocation", Digest: statement.Digest(b), Epoch: 2}, nil
			}
			if string(b) != "proof" {
				return quarantine.Finding{}, errors.New("no proof")
			}
			return quarantine.Finding{Accused: liar, Class: "equivocation", Digest: [32]byte{1}, Epoch: 2}, nil
		},
	}), st, slog.New(slog.DiscardHandler), nil)
	s.size = func() quarantine.Roster { return quarantine.Roster{Attested: 4} }
	return s
}

func TestEvidenceContainsAndIsRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	st := openStore(t, path)
	s := testStandings(st)
	var cut []spiffeid.ID
	s.enforce = func(id spiffeid.ID, e quarantine.Effects) (was severed) {
		if e.CutSessions && e.FreezeFeed && e.RefuseIssue {
			cut = append(cut, id)
		}
		return severed{Links: 1, Connections: 2}
	}
	if _, _, err := s.evidence([]byte("lie"), other); !errors.Is(err, quarantine.ErrEvidence) {
		t.Errorf("false evidence: %v", err)
	}
	if s.admits(liar) != nil {
		t.Error("convicted without a proof")
	}
	if _, added, err := s.evidence([]byte("proof"), other); err != nil || !added {
		t.Fatal(added, err)
	}
	if _, added, err := s.evidence([]byte("proof"), liar); err != nil || added {
		t.Errorf("the same proof again: %v %v", added, err)
	}
	if !errors.Is(s.admits(liar), ErrContained) || !errors.Is(s.issues(liar), ErrContained) || s.admits(other) != nil {
		t.Error("standing is not what the proof says")
	}
	if len(cut) == 0 || cut[0] != liar {
		t.Errorf("cut %v, want %s", cut, liar)
	}
	was, ok := s.lastCut(liar)
	if got := was.String(); !ok || !strings.HasPrefix(got, "cut 1 link, 2 connections of clients, the last after ") {
		t.Errorf("what was cut: %t %q", ok, got)
	}
	if _, ok := s.lastCut(other); ok {
		t.Error("who was not cut was")
	}
	leaves, err := st.Outbox(0, 10)
	if err != nil || len(leaves) != 2 {
		t.Fatalf("%d leaves, %v; want the standing and the finding", len(leaves), err)
	}
	if !bytes.Contains(leaves[0].Body, []byte(was.String())) {
		t.Errorf("the leaf of the standing does not say what was cut: %s", leaves[0].Body)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	st = openStore(t, path)
	s = testStandings(st)
	cut = nil
	s.enforce = func(id spiffeid.ID, e quarantine.Effects) (was severed) { cut = append(cut, id); return was }
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	s.settle()
	if again, ok := s.lastCut(liar); !errors.Is(s.admits(liar), ErrContained) || len(cut) != 1 || !ok || again.Took != was.Took {
		t.Errorf("after a restart: %v, enforced on %v, cut %+v", s.admits(liar), cut, again)
	}
	if again, _ := st.Outbox(2, 10); len(again) != 0 {
		t.Errorf("a restart wrote %d leaves about what was on record", len(again))
	}
}

// TestContainmentDoesNotWaitForTheDisk breaks every commit: the liar is shut out
// all the same, and the trail is told of the gap.
func TestContainmentDoesNotWaitForTheDisk(t *testing.T) {
	st, err := store.OpenFaulty(filepath.Join(t.TempDir(), "state.db"), func(int) store.Fault { return store.FaultBefore })
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := testStandings(st)
	var gaps uint64
	s.gap = func(n uint64, _ string) { gaps += n }
	enforced := 0
	s.enforce = func(spiffeid.ID, quarantine.Effects) (was severed) { enforced++; return was }
	if _, _, err := s.evidence([]byte("proof"), other); err != nil {
		t.Fatal(err)
	}
	if enforced == 0 || !errors.Is(s.admits(liar), ErrContained) {
		t.Error("containment waited for the record of it")
	}
	if gaps != 2 {
		t.Errorf("%d events in the gap, want 2", gaps)
	}
}

func TestFaultsHold(t *testing.T) {
	s := testStandings(openStore(t, filepath.Join(t.TempDir(), "state.db")))
	s.fault(other, quarantine.BadSignature)
	if !errors.Is(s.admits(other), ErrContained) {
		t.Error("a relay of bad signatures is not held")
	}
	if s.issues(other) != nil {
		t.Error("what one node saw alone must not stop issuance")
	}
}

// With the cap burnt by others, a liar is frozen all the same, its sessions stay, and an operator
// is told so once.
func TestCapKeepsSessionsAndSaysSo(t *testing.T) {
	var told strings.Builder
	s := testStandings(openStore(t, filepath.Join(t.TempDir(), "state.db")))
	s.log = slog.New(slog.NewTextHandler(&told, nil))
	first := spiffeid.RequireFromString("spiffe://east.dev.example/node/a-sacrifice")
	accuse := func(id spiffeid.ID, digest byte) func([]byte) (quarantine.Finding, error) {
		return func([]byte) (quarantine.Finding, error) {
			return quarantine.Finding{Accused: id, Class: "equivocation", Digest: [32]byte{digest}, Epoch: 2}, nil
		}
	}
	var accused func([]byte) (quarantine.Finding, error)
	s.set = quarantine.NewSet(east, quarantine.Checks{Evidence: func(b []byte) (quarantine.Finding, error) { return accused(b) }})
	did := map[spiffeid.ID]quarantine.Effects{}
	s.enforce = func(id spiffeid.ID, e quarantine.Effects) (was severed) { did[id] = e; return was }
	for i, id := range []spiffeid.ID{first, liar, liar} { // of 4 nodes one may be cut in 10 minutes
		accused = accuse(id, byte(i))
		if _, _, err := s.evidence([]byte{byte(i)}, other); err != nil {
			t.Fatal(err)
		}
	}
	if e := did[first]; !e.CutSessions {
		t.Errorf("the first: %s", e)
	}
	if e := did[liar]; e.CutSessions || !e.Capped || !e.FreezeFeed || !e.RefuseIssue || !e.RefuseRelay {
		t.Errorf("the second: %s", e)
	}
	if err := s.admits(liar); err != nil {
		t.Errorf("its sessions: %v", err)
	}
	if !errors.Is(s.issues(liar), ErrContained) {
		t.Error("it is issued credentials")
	}
	if n := strings.Count(told.String(), "sessions are kept"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &told)
	}
}

// With room under the cap again, sessions that were kept are cut, which is measured from then and on
// record, although the standing stays.
func TestWhatTheCapKeptIsCutLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
		defer st.Close()
		s := testStandings(st)
		accused := spiffeid.RequireFromString("spiffe://east.dev.example/node/a-sacrifice")
		s.set = quarantine.NewSet(east, quarantine.Checks{Evidence: func(b []byte) (quarantine.Finding, error) {
			return quarantine.Finding{Accused: accused, Class: "equivocation", Digest: [32]byte{b[0]}, Epoch: 2}, nil
		}})
		s.enforce = func(_ spiffeid.ID, e quarantine.Effects) (was severed) {
			if e.CutSessions {
				was.Links = 1
			}
			return was
		}
		for i, id := range []spiffeid.ID{accused, liar} {
			accused = id
			if _, _, err := s.evidence([]byte{byte(i)}, other); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := s.lastCut(liar); ok {
			t.Error("cut beyond the cap")
		}
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = s.run(ctx) }()
		time.Sleep(11 * time.Minute)
		stop()
		synctest.Wait()
		was, ok := s.lastCut(liar)
		if !ok || was.Links != 1 || was.Took > time.Second {
			t.Errorf("%t %+v", ok, was)
		}
		leaves, err := st.Outbox(0, 10)
		if err != nil || len(leaves) != 5 || !bytes.Contains(leaves[4].Body, []byte(was.String())) {
			t.Errorf("%d leaves, %v: want two of each conviction and one of the cut", len(leaves), err)
		}
	})
}

// Who is not on record is let in without the roster being made: every node is asked about again and
// again, and in a large region that would take all there is.
func TestRosterIsMadeForWhoIsOnRecordOnly(t *testing.T) {
	s := testStandings(openStore(t, filepath.Join(t.TempDir(), "state.db")))
	made := 0
	s.size = func() quarantine.Roster { made++; return quarantine.Roster{Attested: 4} }
	if s.admits(liar) != nil || s.issues(other) != nil || made > 0 {
		t.Errorf("the roster was made %d times for nodes of which nothing is known", made)
	}
	if _, _, err := s.evidence([]byte("proof"), other); err != nil {
		t.Fatal(err)
	}
	made = 0
	if s.admits(liar) == nil || s.issues(liar) == nil || made != 2 {
		t.Errorf("the roster was made %d times for two questions about a convict", made)
	}
}
