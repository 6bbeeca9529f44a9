package authority

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Each rollback voids the epochs so far and keeps the spans of those before, as far as it does not
// cover them itself.
func TestRollback(t *testing.T) {
	a := newAuthority(t)
	node := spiffeid.RequireFromPath(td, "/node/east-n2")
	ask := EpochRequest{Node: node, FeedKey: []byte("key"), Attested: true}
	allocate := func() Grant {
		t.Helper()
		g, err := a.Epochs().Allocate(t0, ask)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	first := allocate() // 1 and 2
	if _, err := a.Rollback(t0, node, 3, 1, "no such epoch"); !errors.Is(err, ErrPlace) {
		t.Errorf("an epoch that was never given out: %v, want %v", err, ErrPlace)
	}
	if g := allocate(); g != first {
		t.Errorf("a refused rollback voided epochs: %+v", g)
	}
	if _, err := a.Rollback(t0, a.self, 1, 1, "x"); !errors.Is(err, ErrOwnNode) {
		t.Errorf("the authority's own node: %v, want %v", err, ErrOwnNode)
	}
	west := spiffeid.RequireFromString("spiffe://west.dev.example/node/n1")
	if _, err := a.Rollback(t0, west, 1, 1, "x"); err == nil {
		t.Error("another region's node was rolled back")
	}
	for i, tt := range []struct {
		epoch, seq uint64
		want       []Span
	}{
		{1, 40, []Span{{1, 40, 3}}},
		{3, 9, []Span{{1, 40, 3}, {3, 9, 5}}},
		{3, 7, []Span{{1, 40, 3}, {3, 7, 7}}},            // covers the one before
		{5, 0, []Span{{1, 40, 3}, {3, 7, 7}, {5, 0, 9}}}, // all of an epoch
		{1, 3, []Span{{1, 3, 11}}},
	} {
		s, err := a.Rollback(t0.Add(time.Duration(i)*time.Second), node, tt.epoch, tt.seq, "a bad push")
		if err != nil {
			t.Fatal(err)
		}
		opened, err := Open(s.Raw, td, a.keys)
		if err != nil {
			t.Fatal(err)
		}
		r, err := opened.Rollback()
		if err != nil || r.Origin != node || !slices.Equal(r.Spans, tt.want) || r.Reason != "a bad push" {
			t.Errorf("to %d/%d: %+v, %v; want %v", tt.epoch, tt.seq, r, err, tt.want)
		}
		if g := allocate(); g.Epoch < r.Spans[len(r.Spans)-1].Before || g.Class != ClassNode {
			t.Errorf("after it epoch %+v is given", g)
		}
	}
	if _, err := a.Rollback(t0, node, 1, 1, strings.Repeat("x", maxRollbackReason+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a long reason: %v", err)
	}
}

func TestRollbackBounds(t *testing.T) {
	good := Rollback{Origin: shop, Spans: []Span{{1, 0, 2}, {3, 4, 5}}, At: t0}
	if _, err := good.encode(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Rollback){
		"no origin":    func(r *Rollback) { r.Origin = spiffeid.ID{} },
		"no spans":     func(r *Rollback) { r.Spans = nil },
		"many spans":   func(r *Rollback) { r.Spans = make([]Span, MaxSpans+1) },
		"no epoch":     func(r *Rollback) { r.Spans = []Span{{0, 0, 2}} },
		"empty span":   func(r *Rollback) { r.Spans = []Span{{2, 1, 2}} },
		"out of order": func(r *Rollback) { r.Spans = []Span{{3, 4, 5}, {1, 0, 2}} },
		"twice":        func(r *Rollback) { r.Spans = []Span{{1, 0, 2}, {1, 0, 2}} },
		"no time":      func(r *Rollback) { r.At = time.Unix(-1, 0) },
	} {
		r := good
		change(&r)
		if _, err := r.encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
