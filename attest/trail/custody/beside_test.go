package custody

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// besides is a folder whose files are named by their hashes.
func besides() map[string]func(string, []byte) error {
	return map[string]func(string, []byte) error{"rosters": func(name string, b []byte) error {
		if fmt.Sprintf("%x", sha256.Sum256(b)) != name {
			return errors.New("it is another")
		}
		return nil
	}}
}

// put writes a file beside a node's trail.
func (r *region) put(owner spiffeid.ID, path, content string) {
	r.t.Helper()
	path = filepath.Join(r.nodes[owner].dir, "trail", path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// What heads and leaves rest on is copied too: from the owner, and once that is lost from another
// custodian.
func TestBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, nodes(5)...)
		for _, n := range r.nodes {
			n.cfg.Beside = besides()
		}
		owner := nodes(5)[1]
		large := string(slices.Repeat([]byte("a roster\n"), maxPart/4))
		wants := map[string]string{}
		for _, content := range []string{"who", "who else", "", large} {
			wants[fmt.Sprintf("%x", sha256.Sum256([]byte(content)))] = content
		}
		for name, content := range wants {
			r.put(owner, "rosters/"+name, content)
		}
		r.put(owner, "rosters/"+fmt.Sprintf("%x", sha256.Sum256([]byte("true"))), "false")
		r.put(owner, "rosters/A b", "no name")
		r.put(owner, "else/x", "not asked for")
		early := r.nodes[owner].tr.Head()
		r.record(owner, 20)
		r.put(owner, fmt.Sprintf("1/%s/%012d", trail.SeenDir, early.Size), string(early.Raw))
		r.round()
		check := func(k *node) {
			t.Helper()
			dir := k.place(owner).trail
			entries, err := os.ReadDir(filepath.Join(dir, "rosters"))
			if err != nil || len(entries) != len(wants) {
				t.Errorf("%d files: %v", len(entries), err)
			}
			for name, want := range wants {
				if got, err := os.ReadFile(filepath.Join(dir, "rosters", name)); err != nil || string(got) != want {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "else")); err == nil {
				t.Error("a folder was copied that nobody asked for")
			}
			if c, ok, err := trail.SeenAfter(trail.EpochDir(dir, 1), 1); err != nil || !ok || c.Size != early.Size {
				t.Errorf("an earlier head: %+v, %t, %v", c, ok, err)
			}
		}
		custodians := Rank(owner, r.members())[:3]
		for _, id := range custodians {
			check(r.nodes[id])
		}
		before := r.asked
		r.round()
		if cost := r.asked - before; cost > 5*3*8 {
			t.Errorf("%d questions in a round in which nothing is new", cost)
		}
		r.nodes[owner].away = true
		lost := r.nodes[custodians[0]]
		if err := os.RemoveAll(lost.cfg.Dir); err != nil {
			t.Fatal(err)
		}
		r.round()
		check(lost)
	})
}

// One who may ask reads nothing but what is beside the trail, by its name there.
func TestNothingElseBeside(t *testing.T) {
	r := newRegion(t, nodes(5)...)
	owner := nodes(5)[1]
	r.nodes[owner].cfg.Beside = besides()
	r.put(owner, "secret/x", "x")
	r.put(owner, "rosters/x", "x")
	peer := Rank(owner, r.members())[0]
	for _, q := range []question{
		{Owner: owner.String(), Folder: "secret"}, {Owner: owner.String(), Folder: "secret", File: "x"},
		{Owner: owner.String(), Folder: "1", File: "checkpoint"},
	} {
		a, err := r.nodes[peer].ask(context.Background(), owner, q)
		if err != nil || len(a.Names)+len(a.Part) > 0 {
			t.Errorf("%+v: %+v, %v", q, a, err)
		}
	}
	for _, q := range []question{
		{Owner: owner.String(), Folder: ".."}, {Owner: owner.String(), Folder: "rosters", File: "../x"},
		{Owner: owner.String(), Folder: "rosters", Epoch: 1}, {Owner: owner.String(), Seen: true, File: "x"},
	} {
		if _, err := r.nodes[peer].ask(context.Background(), owner, q); !errors.Is(err, ErrQuestion) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	stranger := Rank(owner, r.members())[3]
	r.nodes[owner].cfg.Copies = 1
	for _, q := range []question{{Owner: owner.String(), Folder: "rosters", File: "x"}, {Owner: owner.String(), Epoch: 1, Seen: true, From: headOnly}} {
		if _, err := r.nodes[stranger].ask(context.Background(), owner, q); !errors.Is(err, ErrNotCustodian) {
			t.Errorf("of one that is no custodian: %v", err)
		}
	}
}
