package enrolling

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// complete checks that a node holds all that an enrolment gives.
func complete(t *testing.T, c *Credentials) {
	t.Helper()
	h := c.Now()
	if h.agent == nil || h.Node == nil || h.Node.ID != nodeN1 || len(h.Workloads) != 1 || len(h.entries) != 2 || len(h.epoch) == 0 || len(h.spare) == 0 || h.InUse == 0 {
		t.Fatalf("not all there: agent %v, node %v, %d workloads, %d entries, epoch %d", h.agent != nil, h.Node != nil, len(h.Workloads), len(h.entries), h.InUse)
	}
}

// TestTokenIsSpentOnce breaks the way of a node with a join token at every step, and
// kills it there. It always comes to its identity with the one token it has.
func TestTokenIsSpentOnce(t *testing.T) {
	type broken struct {
		refuse int64 // the issuer says no when it is asked this often
		save   int   // the identity cache fails at this save; 0: never
		landed bool  // although the save is on disk
		commit store.Fault
	}
	cases := map[string]broken{
		"agent SVID not kept":            {save: 1},
		"agent SVID kept, said not":      {save: 1, landed: true},
		"identities not kept":            {save: 2},
		"identities kept, said not":      {save: 2, landed: true},
		"trail leaf not written":         {commit: store.FaultBefore},
		"trail leaf written, said not":   {commit: store.FaultAfter},
		"attestation refused, the agent": {refuse: 1}, "attestation refused, the node": {refuse: 2},
		"enrolment refused, the agent": {refuse: 3}, "enrolment refused, the node": {refuse: 4},
		"entries refused, the agent": {refuse: 5}, "entries refused, the node": {refuse: 6},
		"SVIDs refused, the agent": {refuse: 7}, "SVIDs refused, the node": {refuse: 8},
	}
	for name, broken := range cases {
		t.Run(name, func(t *testing.T) {
			r := newTestRegion(t, nil, tokenAgent(t))
			r.refuse.Store(broken.refuse)
			dir := t.TempDir()
			c, path := r.config(dir), filepath.Join(dir, "state.db")
			st, err := store.OpenFaulty(path, func(int) store.Fault { return broken.commit })
			r.must(err)
			first := r.start(c, st)
			saves, write := 0, first.vault.write
			first.vault.write = func(c cache.Contents, at time.Time) error {
				if saves++; saves != broken.save {
					return write(c, at)
				}
				if broken.landed {
					r.must(write(c, at))
				}
				return errors.New("the disk is full")
			}
			if err := first.renew(t.Context()); err == nil {
				t.Fatal("nothing was broken")
			}
			r.must(st.Close())

			st = openStore(t, path)
			second := r.start(c, st)
			r.must(second.renew(t.Context()))
			complete(t, second)

			// What was spent is of no use any more, and is not asked for.
			r.must(os.Remove(string(c.Enrol.TokenFile)))
			before := second.Now()
			r.must(second.renew(t.Context()))
			complete(t, second)
			if after := second.Now(); after.InUse != before.InUse || after.agent.Certificates[0].Equal(before.agent.Certificates[0]) {
				t.Error("a renewal is a new agent SVID in the same epoch")
			}
			third := r.start(c, st)
			complete(t, third)
			r.must(third.renew(t.Context()))
		})
	}
}

// TestUnkeptAgent: with a full disk the running process still has what its token
// was spent for.
func TestUnkeptAgent(t *testing.T) {
	r := newTestRegion(t, nil, tokenAgent(t))
	dir := t.TempDir()
	c := r.config(dir)
	creds := r.start(c, openStore(t, filepath.Join(dir, "state.db")))
	write := creds.vault.write
	creds.vault.write = func(cache.Contents, time.Time) error { return errors.New("the disk is full") }
	for range 3 {
		if err := creds.renew(t.Context()); err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Fatal(err)
		}
		r.must(os.WriteFile(string(c.Enrol.TokenFile), []byte("another"), 0o600))
	}
	creds.vault.write = write
	r.must(creds.renew(t.Context()))
	complete(t, creds)
}

// TestWrongNodeKeepsToken: a mistake in the configuration or the issuer's entries is
// put right without another token.
func TestWrongNodeKeepsToken(t *testing.T) {
	for name, wrong := range map[string]func(*testRegion, *config.Config){
		"configuration": func(_ *testRegion, c *config.Config) { c.Node = liar },
		"entries":       func(r *testRegion, _ *config.Config) { r.must(r.server.SetEntries(nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRegion(t, nil, tokenAgent(t))
			dir := t.TempDir()
			right := r.config(dir)
			c := right
			wrong(r, &c)
			st := openStore(t, filepath.Join(dir, "state.db"))
			if err := r.start(c, st).renew(t.Context()); !errors.Is(err, ErrWrongNode) && !errors.Is(err, spire.ErrRefused) {
				t.Fatal(err)
			}
			r.must(r.server.SetEntries([]issuer.Entry{
				{SPIFFEID: nodeN1, ParentID: tokenAgent(t)}, {SPIFFEID: workShop, ParentID: nodeN1, Selectors: []string{"unix:uid:0"}},
			}))
			creds := r.start(right, st)
			r.must(creds.renew(t.Context()))
			complete(t, creds)
		})
	}
}

// TestEvictedAgentNeedsToken: what the issuer forgot comes back by a new token only,
// and the error says so.
func TestEvictedAgentNeedsToken(t *testing.T) {
	r := newTestRegion(t, nil, tokenAgent(t))
	dir := t.TempDir()
	creds := r.start(r.config(dir), openStore(t, filepath.Join(dir, "state.db")))
	r.must(creds.renew(t.Context()))
	held := creds.Now()
	r.must(r.server.Evict(tokenAgent(t), "test"))
	err := creds.renew(context.Background())
	if !errors.Is(err, spire.ErrMustAttest) || !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "join token") {
		t.Fatal(err)
	}
	if creds.Now().Node != held.Node {
		t.Error("the node's SVID was given up")
	}
}
