package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// What a rollback publishes is decided apart from asking and signing.
func TestFallBack(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	version := func(n uint64, state, rule string) *controlv1.SignedPolicy {
		content, err := bundle.Content{Modules: map[string]string{"connect.rego": rule}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		file, err := provision.Policy{Level: policy.Global, Scope: bundle.ScopeMesh, Version: n, Author: "spiffe://east.example.org/op", Content: content}.Sign(key, provision.ValidFor(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := bundle.Take(file)
		if err != nil {
			t.Fatal(err)
		}
		return &controlv1.SignedPolicy{Version: n, State: state, Digest: fmt.Sprintf("%x", loaded.Record.Digest), File: file}
	}
	given := func(m *controlv1.SignedPolicy) *bundle.Loaded {
		loaded, err := bundle.Take(m.File)
		if err != nil {
			t.Fatal(err)
		}
		return &loaded
	}
	held := []*controlv1.SignedPolicy{version(3, governing.StateInForce, "package c"), version(2, governing.StateStopped, "package b"), version(1, governing.StateWasBefore, "package a")}
	next := provision.Policy{Level: policy.Global, Scope: bundle.ScopeMesh, Version: 4}
	for name, c := range map[string]struct {
		held  []*controlv1.SignedPolicy
		given *bundle.Loaded
		to    uint64
		force bool
		about string // empty: refused
		is    string // in the error
	}{
		"the one before":          {held, nil, 0, false, "version 4: content of version 1, in place of 3", ""},
		"one that was stopped":    {held, nil, 2, false, "", "version 2 was stopped"},
		"stopped, and forced":     {held, nil, 2, true, "version 4: content of version 2, in place of 3", ""},
		"a file":                  {held[:1], given(held[2]), 0, false, "version 4: content of version 1, in place of 3", ""},
		"a file that was stopped": {held, given(held[1]), 0, false, "", "--force"},
		"another file than --to":  {held, given(held[2]), 2, false, "", "the file is version 1, and --to names 2"},
		"nothing held":            {nil, given(held[2]), 0, false, "", "holds no policy that this key signed"},
		"what is no policy":       {[]*controlv1.SignedPolicy{{File: []byte("x")}}, nil, 0, false, "", "not a policy file"},
	} {
		got, about, err := fallBack(next, c.held, c.given, c.to, c.force)
		if about != c.about || (err == nil) != (c.about != "") || err != nil && !strings.Contains(err.Error(), c.is) {
			t.Errorf("%s: %q, %v", name, about, err)
		}
		if err == nil && (len(got.Content) == 0 || got.Version != 4 || !strings.HasPrefix(got.Change, "rollback to version ")) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	region := provision.Policy{Level: policy.Regional, Scope: "east.example.org", Version: 4}
	if _, _, err := fallBack(region, held, given(held[2]), 0, false); err == nil || !strings.Contains(err.Error(), "it is global policy of mesh, and the key signs regional policy of east.example.org") {
		t.Errorf("another scope's file: %v", err)
	}
}

func TestGoBack(t *testing.T) {
	v := func(n uint64, state, digest string) *controlv1.SignedPolicy {
		return &controlv1.SignedPolicy{Version: n, State: state, Digest: digest}
	}
	const in, was, stopped, staged, held = governing.StateInForce, governing.StateWasBefore, governing.StateStopped, governing.StateStaged, "held"
	for name, c := range map[string]struct {
		held  []*controlv1.SignedPolicy
		to    uint64
		want  uint64 // 0: none
		tried bool
	}{
		"past one that was stopped":       {[]*controlv1.SignedPolicy{v(22, in, "c"), v(21, stopped, "b"), v(20, was, "a")}, 0, 20, true},
		"past two that were stopped":      {[]*controlv1.SignedPolicy{v(23, in, "d"), v(22, stopped, "c"), v(21, stopped, "b"), v(20, was, "a")}, 0, 20, true},
		"past one that only waited":       {[]*controlv1.SignedPolicy{v(22, in, "c"), v(21, staged, "b"), v(20, was, "a")}, 0, 20, true},
		"the newest was stopped":          {[]*controlv1.SignedPolicy{v(6, stopped, "c"), v(5, stopped, "b"), v(4, in, "a"), v(3, was, "z")}, 0, 4, true},
		"the newest waits":                {[]*controlv1.SignedPolicy{v(5, staged, "b"), v(4, in, "a")}, 0, 4, true},
		"the same content again":          {[]*controlv1.SignedPolicy{v(4, in, "b"), v(3, stopped, "c"), v(2, was, "b"), v(1, was, "a")}, 0, 1, true},
		"none but what was stopped":       {[]*controlv1.SignedPolicy{v(22, in, "c"), v(21, stopped, "b")}, 0, 0, false},
		"of a scope that is not its own":  {[]*controlv1.SignedPolicy{v(2, held, "b"), v(1, held, "a")}, 0, 0, false},
		"that by its number":              {[]*controlv1.SignedPolicy{v(2, held, "b"), v(1, held, "a")}, 1, 1, true},
		"one that was stopped":            {[]*controlv1.SignedPolicy{v(22, in, "c"), v(21, stopped, "b")}, 21, 21, false},
		"one that waited":                 {[]*controlv1.SignedPolicy{v(22, in, "c"), v(21, staged, "b")}, 21, 21, false},
		"one that is not held":            {[]*controlv1.SignedPolicy{v(22, in, "c")}, 7, 0, false},
		"stopped, then published for all": {[]*controlv1.SignedPolicy{v(3, in, "b"), v(2, stopped, "b")}, 2, 2, true},
	} {
		got, err := goBack(c.held, c.to)
		if (err != nil) != (c.want == 0) || err != nil && !errors.Is(err, explain.ErrNotThere) || got.GetVersion() != c.want {
			t.Errorf("%s: version %d, %v; want %d", name, got.GetVersion(), err, c.want)
			continue
		}
		if got != nil && (untried(c.held, got.Digest) == nil) != c.tried {
			t.Errorf("%s: %v", name, untried(c.held, got.Digest))
		}
	}
}
