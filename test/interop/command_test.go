package interop

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// commandCell operates our issuer with the stock spire-server command alone.
func commandCell(t *testing.T, p *pki) {
	s := newIssuer(t, p)
	do := func(words ...string) string {
		t.Helper()
		return run(t, binary(t, "spire-server"), append(words, "-socketPath", s.socket)...)
	}
	says := func(want string, words ...string) {
		t.Helper()
		if got := do(words...); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", strings.Join(words, " "), want, got)
		}
	}
	refuses := func(want string, words ...string) {
		t.Helper()
		got, err := output(t, binary(t, "spire-server"), append(words, "-socketPath", s.socket)...)
		if err == nil || !strings.Contains(got, want) {
			t.Errorf("%s: want a refusal that says %q: %v\n%s", strings.Join(words, " "), want, err, got)
		}
	}
	ask := func(out any, words ...string) {
		t.Helper()
		must(t, json.Unmarshal([]byte(do(append(words, "-output", "json")...)), out))
	}
	says("healthy", "healthcheck")
	b, err := spiffebundle.Parse(td, []byte(do("bundle", "show", "-format", "spiffe")))
	must(t, err)
	if len(b.X509Authorities()) != 1 || len(b.JWTAuthorities()) != 1 {
		t.Errorf("bundle of %d X.509 and %d JWT authorities", len(b.X509Authorities()), len(b.JWTAuthorities()))
	}

	host, shop := spiffeid.RequireFromPath(td, "/host"), spiffeid.RequireFromPath(td, "/workload/shop")
	var token struct{ Value string }
	ask(&token, "token", "generate", "-spiffeID", host.String(), "-ttl", "600")
	says("Entry ID", "entry", "create", "-parentID", host.String(), "-spiffeID", shop.String(), "-selector", self, "-dns", "shop.example", "-hint", "first")
	var shown struct{ Entries []struct{ ID, Hint string } }
	ask(&shown, "entry", "show", "-spiffeID", shop.String())
	if len(shown.Entries) != 1 || shown.Entries[0].Hint != "first" {
		t.Fatalf("entries: %+v", shown)
	}
	entry := shown.Entries[0].ID

	e := evidence{by: spire.NewJoinToken(token.Value), key: newKey(t)}
	a, err := spire.Attest(t.Context(), s.config(t), e.by, e.key)
	must(t, err)
	c := dial(t, s, e, a)
	c.find(t, shop) // below the ID that came with the token
	says(a.SVID.ID.String(), "agent", "list")
	says("join_token", "agent", "show", "-spiffeID", a.SVID.ID.String())
	says("2 attested agents", "agent", "count", "-attestationType", "join_token") // and the node itself

	says("Entry ID", "entry", "update", "-entryID", entry, "-parentID", host.String(), "-spiffeID", shop.String(), "-selector", self, "-hint", "second")
	if got := c.find(t, shop).Hint; got != "second" {
		t.Errorf("hint %q after the update", got)
	}
	says("Deleted entry", "entry", "delete", "-entryID", entry)
	says("0 entries", "entry", "show", "-spiffeID", shop.String())

	type authority struct {
		ID string `json:"authority_id"`
	}
	var x509 struct {
		Prepared authority `json:"prepared_authority"`
		Old      authority `json:"old"`
	}
	ask(&x509, "localauthority", "x509", "prepare")
	fresh := x509.Prepared.ID
	says(fresh, "localauthority", "x509", "show")
	refuses("is not in version 1", "localauthority", "x509", "activate", "-authorityID", fresh)
	s.publish(t, p)
	says(fresh, "localauthority", "x509", "activate", "-authorityID", fresh)
	ask(&x509, "localauthority", "x509", "show")
	old := x509.Old.ID
	says(old, "localauthority", "x509", "taint", "-authorityID", old)
	refuses(a.SVID.ID.String(), "localauthority", "x509", "revoke", "-authorityID", old)
	says("Active", "localauthority", "jwt", "show")

	says("banned", "agent", "ban", "-spiffeID", a.SVID.ID.String())
	says("evicted", "agent", "evict", "-spiffeID", a.SVID.ID.String())
	refuses("not found", "agent", "show", "-spiffeID", a.SVID.ID.String())
	eventually(t, "the old authority goes", func() error {
		_, err := output(t, binary(t, "spire-server"), "localauthority", "x509", "revoke", "-authorityID", old, "-socketPath", s.socket)
		return err
	})
	if b, err = s.bundle(t); err != nil || len(b.X509Authorities()) != 1 {
		t.Errorf("%d roots at the end: %v", len(b.X509Authorities()), err)
	}
}
