package issuer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// awayEpochs is an authority that nobody reaches.
type awayEpochs struct{}

func (awayEpochs) Allocate(context.Context, issuer.EpochRequest) (issuer.EpochGrant, error) {
	return issuer.EpochGrant{}, issuer.ErrAuthorityAway
}

// TestTwoIssuers: two issuers of one region, each with roots of its own, one of which
// cannot reach the authority.
func TestTwoIssuers(t *testing.T) {
	first, second := twoIssuers(t, nil)
	c, agent := first.attest()
	shopID := first.entry(c, shop).ID
	got, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: shopID, ID: shop, Key: newKey(t)}})
	if err != nil || got[0].Err != nil {
		t.Fatal(got, err)
	}

	// What one issued is genuine at the other, and its agent unknown there.
	over := second.dial(agent)
	if _, err := over.Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("an agent of the other issuer: %v", err)
	}
	moved, fresh := second.attest()
	if id := second.entry(moved, shop).ID; fresh.SVID.ID != agent.SVID.ID || second.entry(moved, shop).SPIFFEID != shop {
		t.Errorf("%s, entry %s, before %s, %s", fresh.SVID.ID, id, agent.SVID.ID, shopID)
	}

	// Both know all roots and keys.
	for name, client := range map[string]*spire.Client{"first": c, "second": moved} {
		b, err := client.TrustBundle(t.Context())
		if err != nil || len(b.X509Authorities()) != 2 || len(b.JWTAuthorities()) != 2 {
			t.Errorf("%s: %d roots, %d JWT keys, %v", name, len(b.X509Authorities()), len(b.JWTAuthorities()), err)
		}
	}

	// Without the authority there are SVIDs and no epochs; it is no refusal.
	if _, err := moved.Enrol(t.Context(), &first.machine.feed.PublicKey, 0, nil, 0); !errors.Is(err, spire.ErrUnreachable) || !strings.Contains(err.Error(), "authority") {
		t.Errorf("enrol: %v", err)
	}
	if _, err := moved.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: second.entry(moved, shop).ID, ID: shop, Key: newKey(t)}}); err != nil {
		t.Error(err)
	}
	if leaves := second.leaves(); leaves["issuer.refuse epoch"] != 1 || leaves["issuer.issue epoch"] != 0 {
		t.Errorf("trail: %v", leaves)
	}
}

// twoIssuers are those; evicted says whom the first evicted, for the second.
func twoIssuers(t *testing.T, evicted func(spiffeid.ID) bool) (first, second *region) {
	t.Helper()
	published := recordsOf(trust.Record{Region: "east", TrustDomain: east, Version: 1, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	keys := func(r **region) func() []issuer.Authority {
		return func() []issuer.Authority {
			return slices.DeleteFunc((*r).server.Authorities(), func(a issuer.Authority) bool { return a.Kind != issuer.JWT })
		}
	}
	first = newRegion(t, func(c *issuer.Config) {
		c.Trust, c.Others = published, keys(&second)
		published.publish(func(r *trust.Record) { r.X509Roots = append(r.X509Roots, c.CA.Certificate()) })
	})
	second = newRegion(t, func(c *issuer.Config) {
		c.Trust, c.Others, c.Evicted = published, keys(&first), evicted
		c.Epochs, c.Endorse = awayEpochs{}, func(context.Context, endorse.Endorsement) ([]byte, error) { return nil, issuer.ErrAuthorityAway }
		c.Attestors[1] = first.machine
		c.Entries[0].ParentID = first.machine.id()
		published.publish(func(r *trust.Record) { r.X509Roots = append(r.X509Roots, c.CA.Certificate()) })
	})
	second.machine = first.machine
	record := x509bundle.FromX509Authorities(east, published.all[0].X509Roots) // as a node knows them
	first.cfg.Bundles, second.cfg.Bundles = record, record
	return first, second
}

// TestTokenAgentMoves: a node whose join token is spent has its SVID renewed by whichever
// issuer of the region it reaches, and by none once one of them evicted or banned it.
func TestTokenAgentMoves(t *testing.T) {
	gone := map[spiffeid.ID]bool{}
	first, second := twoIssuers(t, func(id spiffeid.ID) bool { return gone[id] })
	join := func(token string) spire.Agent {
		t.Helper()
		first.token(token, time.Minute)
		a, err := spire.Attest(t.Context(), first.cfg, spire.NewJoinToken(token), newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	renew := func(at *region, a spire.Agent) (spire.Agent, error) {
		t.Helper()
		svid, err := at.dial(a).Renew(t.Context(), newKey(t))
		return spire.Agent{SVID: svid}, err
	}
	must := func(a spire.Agent, err error) spire.Agent {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	pass := func() { <-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) } // certificates count seconds

	a := join("a token of sixteen bytes or more")
	pass()
	b := must(renew(second, a))
	if _, err := second.dial(b).Entries(t.Context(), nil); err != nil {
		t.Errorf("with what the second gave: %v", err)
	}
	if _, err := second.dial(a).Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("with what was renewed since: %v", err)
	}
	pass()
	c := must(renew(first, b)) // it is back
	if _, err := first.dial(c).Entries(t.Context(), nil); err != nil {
		t.Errorf("with what the first gave then: %v", err)
	}
	if _, err := first.dial(b).Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("with what the second gave before: %v", err)
	}
	if got := second.leaves()["issuer.attest true"]; got != 1 {
		t.Errorf("%d leaves tell of one agent taken over: %v", got, second.leaves())
	}

	refused := func(what string, at *region, a spire.Agent) {
		t.Helper()
		before := at.leaves()["issuer.attest true"]
		if _, err := renew(at, a); err == nil {
			t.Errorf("%s: renewed", what)
		}
		if at.leaves()["issuer.attest true"] != before {
			t.Errorf("%s: taken over", what)
		}
	}
	pass()
	d := must(renew(second, c))
	pass()
	if err := second.server.Evict(d.SVID.ID, "gone"); err != nil {
		t.Fatal(err)
	}
	refused("evicted here, with what it got there", second, c)
	refused("evicted here, with what it got here", second, d)

	lost := join("a token that the issuer forgets")
	if err := first.store.Update(func(tx *store.Tx) error { return tx.Delete("issuer/agents", []byte(lost.SVID.ID.Path())) }); err != nil {
		t.Fatal(err)
	}
	refused("forgotten by the issuer that it is of", first, lost)
	e := join("another token of some length")
	gone[e.SVID.ID] = true
	refused("evicted there", second, e)
	f := join("a third token of some length")
	second.quarantine(f.SVID.ID)
	refused("in bad standing", second, f)
	g := join("a fourth token of some length")
	if err := second.server.Ban(g.SVID.ID, "stolen"); err != nil {
		t.Fatal(err)
	}
	refused("banned here", second, g)
	_, machine := first.attest()
	refused("who can attest again", second, machine)
}
