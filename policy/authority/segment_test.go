package authority

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Each version says all parts that are kept out; they are let back in one by one, and nothing that
// is so already makes a version.
func TestSegments(t *testing.T) {
	a := newAuthority(t)
	node := spiffeid.RequireFromPath(td, "/node/east-n2")
	do := func(prefix string, lift bool, want ...string) Signed {
		t.Helper()
		s, err := a.Segment(t0, node, prefix, lift, "a bad push")
		if err != nil {
			t.Fatal(err)
		}
		if s, err = Open(s.Raw, td, a.keys); err != nil {
			t.Fatal(err)
		}
		got, err := s.Segments()
		if err != nil || got.Origin != node || got.Reason != "a bad push" || !got.At.Equal(t0) || !slices.Equal(got.Prefixes, want) {
			t.Errorf("%s, lift %v: %+v, %v; want %q", prefix, lift, got, err, want)
		}
		return s
	}
	do("x-route/north", false, "x-route/north")
	both := do("x-note", false, "x-note", "x-route/north")
	if again := do("x-note", false, "x-note", "x-route/north"); again.Version != both.Version {
		t.Errorf("said again it is version %d after %d", again.Version, both.Version)
	}
	if _, err := a.Segment(t0, node, "x-route", true, "x"); !errors.Is(err, quarantine.ErrSegment) {
		t.Errorf("let in what is not kept out: %v", err)
	}
	do("x-route/north", true, "x-note")
	do("x-note", true)

	for _, prefix := range []string{
		"", "x", "evidence", "authority/x", "/x-route", "x-route/", "x-route/a/b", "*", "x-*/a", "x-route/**", "x-a b", "x-\n", "x-\xff", "spiffe://east.dev.example/node/east-n2/x-route", "x-" + string(make([]byte, 300)),
	} {
		if _, err := a.Segment(t0, node, prefix, false, "x"); !errors.Is(err, quarantine.ErrSegment) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
	if _, err := a.Segment(t0, spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), "x-note", false, "x"); !errors.Is(err, ErrForeign) {
		t.Errorf("of another region's node: %v", err)
	}
	for i := range MaxSegments {
		if _, err := a.Segment(t0, node, fmt.Sprintf("x-%03d", i), false, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Segment(t0, node, "x-more", false, "x"); !errors.Is(err, quarantine.ErrSegment) {
		t.Errorf("beyond the bound: %v", err)
	}
}

func TestSegmentCovers(t *testing.T) {
	s := Segments{Prefixes: []string{"x-note", "x-route/north", "x-temp/hold*"}}
	for key, want := range map[string]bool{
		"x-note/mood": true, "x-note": true, "x-notes/mood": false, "x-route/north": true, "x-route/northern": false,
		"x-route/south": false, "x-temp/hold": true, "x-temp/hold-2": true, "x-temp/ho": false, "evidence/1": false, "": false,
	} {
		if got := s.Covers(key); got != want {
			t.Errorf("%q: %v", key, got)
		}
	}
	if (Segments{}).Covers("x-note/mood") {
		t.Error("the zero value keeps something out")
	}
}

func FuzzParseSegments(f *testing.F) {
	for _, s := range []Segments{{Origin: self, At: t0}, {Origin: self, Prefixes: []string{"x-note", "x-route/north"}, At: t0, Reason: "x"}} {
		b, err := s.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ParseSegments(in)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		if b, err := s.encode(); err != nil || string(b) != string(in) {
			t.Errorf("another spelling: %v", err)
		}
		for _, kind := range []string{"node", "evidence", "accusation", "attestation", "authority", "policy"} {
			if s.Covers(kind + "/x") {
				t.Errorf("%+v keeps out what a node has to say", s)
			}
		}
	})
}
