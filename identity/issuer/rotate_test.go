package issuer_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// A root is replaced under a fleet that never notices.
func TestRootRotation(t *testing.T) {
	dir := t.TempDir()
	published := recordsOf(trust.Record{Region: "east", TrustDomain: east, Version: 1, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	r := newRegion(t, func(c *issuer.Config) {
		c.Trust = published
		c.Lifetime = 15 * time.Second // what comes before it ends may take a slow machine a while
		if err := c.CA.Save(dir); err != nil {
			t.Fatal(err)
		}
	})
	published.publish(func(x *trust.Record) { x.X509Roots = append(x.X509Roots, r.ca.Certificate()) })
	r.cfg.Bundles = r.ca // what a node learns by trust records and GetBundle
	c, _ := r.attest()
	first := r.ca.Authorities()[0]
	svid := func() *x509svid.SVID {
		t.Helper()
		got, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: r.entry(c, shop).ID, ID: shop, Key: newKey(t)}})
		if err != nil || got[0].Err != nil {
			t.Fatal(got, err)
		}
		return got[0].SVID
	}
	old := svid()
	if _, err := r.server.Retire(issuer.X509, first.ID); !errors.Is(err, issuer.ErrAuthority) {
		t.Errorf("retire the active root: %v", err)
	}
	if _, err := r.server.Taint(issuer.X509, first.ID); !errors.Is(err, issuer.ErrAuthority) {
		t.Errorf("taint the active root: %v", err)
	}
	next, err := r.server.Prepare(issuer.X509)
	if err != nil || next.State != issuer.Prepared {
		t.Fatal(next, err)
	}
	if _, err := r.server.Prepare(issuer.X509); !errors.Is(err, issuer.ErrAuthority) {
		t.Errorf("prepare twice: %v", err)
	}
	if b, err := c.Bundle(t.Context()); err != nil || len(b.X509Authorities()) != 2 {
		t.Errorf("a prepared root is not in the bundle: %v", err)
	}
	last := svid() // of the first root, maybe a second after old
	if string(last.Certificates[0].AuthorityKeyId) != string(first.Certificate.SubjectKeyId) {
		t.Error("a prepared root signed")
	}
	if _, err := r.server.Activate(issuer.X509, next.ID); !errors.Is(err, issuer.ErrUnpublished) {
		t.Errorf("activate before it is published: %v", err)
	}
	published.publish(func(x *trust.Record) { x.X509Roots = append(x.X509Roots, next.Certificate) })
	if _, err := r.server.Activate(issuer.X509, next.ID); err != nil {
		t.Fatal(err)
	}
	fresh := svid() // over the connection that the old root vouched for
	if string(fresh.Certificates[0].AuthorityKeyId) != string(next.Certificate.SubjectKeyId) {
		t.Error("the active root does not sign")
	}
	for name, s := range map[string]*x509svid.SVID{"old": old, "new": fresh} {
		if _, _, err := x509svid.Verify(s.Certificates, r.ca); err != nil {
			t.Errorf("%s SVID: %v", name, err)
		}
	}
	if own, err := r.server.GetX509SVID(); err != nil || string(own.Certificates[0].AuthorityKeyId) != string(next.Certificate.SubjectKeyId) {
		t.Errorf("the issuer still shows an SVID of the old root: %v", err)
	}

	if a, err := r.server.Taint(issuer.X509, first.ID); err != nil || !a.Tainted {
		t.Errorf("%v, %v", a, err)
	}
	_, err = r.server.Retire(issuer.X509, first.ID)
	if !errors.Is(err, issuer.ErrAuthorityInUse) || !strings.Contains(err.Error(), shop.String()) || !strings.Contains(err.Error(), r.machine.id().String()) {
		t.Errorf("retire while it is needed: %v", err)
	}
	if from := last.Certificates[0].NotAfter.UTC().Format(time.RFC3339); err == nil || !strings.Contains(err.Error(), "from "+from) {
		t.Errorf("retiring is possible from %s, when the last expires; it says %v", from, err)
	}
	for deadline := last.Certificates[0].NotAfter.Add(10 * time.Second); ; <-time.After(50 * time.Millisecond) {
		if _, err = r.server.Retire(issuer.X509, first.ID); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if roots := r.ca.Bundle().X509Authorities(); len(roots) != 1 || !roots[0].Equal(next.Certificate) {
		t.Errorf("%d roots left", len(roots))
	}
	other, err := issuer.NewCA(east, time.Now()) // another issuer of the region
	if err != nil {
		t.Fatal(err)
	}
	roots, err := r.server.NextRoots(append(published.all[0].X509Roots, other.Certificate()))
	if err != nil || len(roots) != 2 || !roots[0].Equal(next.Certificate) || !roots[1].Equal(other.Certificate()) {
		t.Errorf("the next record names %d roots, %v", len(roots), err)
	}
	if b, err := c.Bundle(t.Context()); err != nil || len(b.X509Authorities()) != 1 { // although the record still names it
		t.Errorf("the retired root is in the bundle as another issuer's: %v", err)
	}
	back, err := issuer.LoadCA(dir)
	if err != nil || !back.Certificate().Equal(next.Certificate) || !back.Bundle().Equal(r.ca.Bundle()) {
		t.Errorf("after a restart: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "svid-root*")); len(files) != 1 {
		t.Errorf("key files left: %v", files)
	}
	got := r.leaves()
	for _, step := range []string{"prepare", "activate", "taint", "retire"} {
		if got["admin.action "+step+" x509 authority"] != 1 {
			t.Errorf("trail: %v", got)
		}
	}
}

func TestLocalAuthority(t *testing.T) {
	r := newRegion(t, nil)
	api := localauthorityv1.NewLocalAuthorityClient(r.local())
	c, _ := r.attest()
	token, err := c.NewJWTSVID(t.Context(), r.entry(c, shop).ID, shop, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	state, err := api.GetJWTAuthorityState(t.Context(), &localauthorityv1.GetJWTAuthorityStateRequest{})
	if err != nil || state.Active == nil || state.Prepared != nil || state.Old != nil {
		t.Fatal(state, err)
	}
	made, err := api.PrepareJWTAuthority(t.Context(), &localauthorityv1.PrepareJWTAuthorityRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.ActivateJWTAuthority(t.Context(), &localauthorityv1.ActivateJWTAuthorityRequest{AuthorityId: made.PreparedAuthority.AuthorityId}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.TaintJWTAuthority(t.Context(), &localauthorityv1.TaintJWTAuthorityRequest{AuthorityId: state.Active.AuthorityId}); err != nil {
		t.Fatal(err)
	}
	b, err := c.TrustBundle(t.Context())
	if err != nil || len(b.JWTAuthorities()) != 2 {
		t.Errorf("%v, %v", b, err)
	}
	second, err := c.NewJWTSVID(t.Context(), r.entry(c, shop).ID, shop, []string{"a"})
	if err != nil || part(t, second.Marshal(), 0)["kid"] != made.PreparedAuthority.AuthorityId || part(t, token.Marshal(), 0)["kid"] != state.Active.AuthorityId {
		t.Errorf("%v, %v", second, err)
	}
	_, err = api.RevokeJWTAuthority(t.Context(), &localauthorityv1.RevokeJWTAuthorityRequest{AuthorityId: state.Active.AuthorityId})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), shop.String()) {
		t.Errorf("a token is still valid: %v", err)
	}
	x, err := api.PrepareX509Authority(t.Context(), &localauthorityv1.PrepareX509AuthorityRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.RevokeX509Authority(t.Context(), &localauthorityv1.RevokeX509AuthorityRequest{AuthorityId: x.PreparedAuthority.AuthorityId}); err != nil {
		t.Errorf("a prepared root that nobody needs: %v", err)
	}
	for _, call := range []func() error{
		func() error {
			_, err := api.ActivateX509Authority(t.Context(), &localauthorityv1.ActivateX509AuthorityRequest{AuthorityId: "none"})
			return err
		},
		func() error {
			_, err := api.TaintX509Authority(t.Context(), &localauthorityv1.TaintX509AuthorityRequest{})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%v", err)
		}
	}
	if s, err := api.GetX509AuthorityState(t.Context(), &localauthorityv1.GetX509AuthorityStateRequest{}); err != nil || s.Active == nil || s.Prepared != nil {
		t.Errorf("%v, %v", s, err)
	}
}
