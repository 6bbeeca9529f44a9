package issuer_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// part decodes one part of a token.
func part(t *testing.T, token string, i int) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// What is issued, section by section of the JWT-SVID text.
func TestJWTSVIDConformance(t *testing.T) {
	r := newRegion(t, nil)
	c, _ := r.attest()
	audience := []string{"spiffe://east.dev.example/workload/cart", "https://api.example"}
	before := time.Now().Truncate(time.Second)
	svid, err := c.NewJWTSVID(t.Context(), r.entry(c, shop).ID, shop, audience)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := c.TrustBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token := svid.Marshal()
	header, body := part(t, token, 0), part(t, token, 1)
	number := func(name string) time.Time {
		f, ok := body[name].(float64)
		if !ok {
			t.Errorf("%s is no number: %v", name, body[name])
		}
		return time.Unix(int64(f), 0)
	}
	kid, _ := header["kid"].(string)
	_, published := bundle.FindJWTAuthority(kid)
	validated, verr := jwtsvid.ParseAndValidate(token, bundle.JWTBundle(), audience[:1])
	for _, rule := range []struct {
		section, says string
		ok            bool
	}{
		{"§2", "compact serialisation, three parts", strings.Count(token, ".") == 2},
		{"§2.1", "alg is one of RS, ES, PS: ES256", header["alg"] == "ES256"},
		{"§2.2", "kid names a key of the bundle", published},
		{"§2.3", "typ, if there, is JWT or JOSE", header["typ"] == "JWT"},
		{"§2", "no header but alg, kid, typ", len(header) == 3},
		{"§3.1", "sub is the SPIFFE ID", body["sub"] == shop.String()},
		{"§3.2", "aud is there, with all that was asked for", slices.Equal(svid.Audience, audience)},
		{"§3.3", "exp is there, five minutes ahead", number("exp").Sub(number("iat")) == issuer.DefaultJWTLifetime},
		{"RFC 7519 §4.1.6", "iat is now", !number("iat").Before(before) && !number("iat").After(time.Now())},
		{"RFC 7519 §4.1.7", "jti is there", body["jti"] != nil && body["jti"] != ""},
		{"§4", "a validator of any one audience takes it", verr == nil && validated.ID == shop},
	} {
		if !rule.ok {
			t.Errorf("JWT-SVID %s: %s: header %v, claims %v, %v", rule.section, rule.says, header, slices.Collect(maps.Keys(body)), verr)
		}
	}

	refused := func(name, token string, b jwtbundle.Source, audience string) {
		if _, err := jwtsvid.ParseAndValidate(token, b, []string{audience}); err == nil {
			t.Errorf("%s: a validator took it", name)
		}
	}
	refused("§4: another audience", token, bundle.JWTBundle(), "https://other.example")
	other := newRegion(t, nil)
	oc, _ := other.attest()
	foreign, err := oc.TrustBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	refused("§4: another region's keys", token, foreign.JWTBundle(), audience[0])
	parts := strings.Split(token, ".")
	forged := strings.Join([]string{parts[0], base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"spiffe://east.dev.example/workload/admin","aud":["x"],"exp":9999999999}`)), parts[2]}, ".")
	refused("§4: changed claims", forged, bundle.JWTBundle(), "x")

	again, err := c.NewJWTSVID(t.Context(), r.entry(c, shop).ID, shop, audience)
	if err != nil || part(t, again.Marshal(), 1)["jti"] == body["jti"] {
		t.Errorf("two tokens share one jti: %v", err)
	}
	if got := r.leaves()["issuer.issue jwt"]; got != 2 {
		t.Errorf("%d leaves for two tokens", got)
	}
}

func TestJWTSVIDRefused(t *testing.T) {
	r := newRegion(t, nil)
	c, a := r.attest()
	work := r.entry(c, shop).ID
	for _, x := range []struct {
		name, entry string
		id          spiffeid.ID
		audience    []string
		say         string
	}{
		{"no audience", work, shop, nil, "audience"},
		{"an empty audience", work, shop, []string{"a", ""}, "audience"},
		{"a long audience", work, shop, []string{strings.Repeat("a", 1025)}, "audience"},
		{"many audiences", work, shop, slices.Repeat([]string{"a"}, 33), "audience"},
		{"nobody's entry", "x", shop, []string{"a"}, "NotFound"},
		{"a node's name", r.entry(c, n1).ID, n1, []string{"a"}, "bearer"},
	} {
		if _, err := c.NewJWTSVID(t.Context(), x.entry, x.id, x.audience); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), x.say) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	r.quarantine(shop)
	if _, err := c.NewJWTSVID(t.Context(), work, shop, []string{"a"}); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("quarantined: %v", err)
	}
	if err := r.server.Ban(a.SVID.ID, "stolen"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewJWTSVID(t.Context(), work, shop, []string{"a"}); !errors.Is(err, spire.ErrBanned) {
		t.Errorf("banned: %v", err)
	}
	if got := r.leaves(); got["issuer.refuse jwt"] != 8 || got["issuer.issue jwt"] != 0 {
		t.Errorf("trail: %v", got)
	}
}

func TestJWTKeysSurviveAndRotate(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	ca, err := issuer.NewCA(east, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	keys := func(ca *issuer.CA) (out []string) {
		for _, a := range ca.Authorities() {
			if a.Kind == issuer.JWT {
				out = append(out, string(a.State)+" "+a.ID)
			}
		}
		return out
	}
	first := keys(ca)
	back, err := issuer.LoadCA(dir)
	if err != nil || !slices.Equal(keys(back), first) {
		t.Fatalf("%v, want %v, %v", keys(back), first, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	const day = 24 * time.Hour
	for _, step := range []struct {
		at   time.Duration
		want []issuer.State
	}{
		{3 * day, []issuer.State{issuer.Active}},
		{4 * day, []issuer.State{issuer.Active, issuer.Prepared}},
		{6 * day, []issuer.State{issuer.Old, issuer.Active}},
		{8 * day, []issuer.State{issuer.Active, issuer.Prepared}}, // the second is past its half
	} {
		if err := back.Tend(now.Add(step.at)); err != nil {
			t.Fatal(err)
		}
		var got []issuer.State
		for _, k := range keys(back) {
			got = append(got, issuer.State(strings.Fields(k)[0]))
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("after %s: %v, want %v", step.at, got, step.want)
		}
	}
	again, err := issuer.LoadCA(dir)
	if err != nil || !slices.Equal(keys(again), keys(back)) {
		t.Errorf("%v, want %v, %v", keys(again), keys(back), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "jwt-*")); len(left) != 2 {
		t.Errorf("key files left: %v", left)
	}
	if err := os.Chmod(filepath.Join(dir, "authorities.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.LoadCA(dir); err == nil {
		t.Error("a file that others may read was accepted")
	}
}

// A folder from before there were JWT keys.
func TestLoneRootGetsJWTKey(t *testing.T) {
	dir := t.TempDir()
	ca, err := issuer.NewCA(east, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	old, _ := filepath.Glob(filepath.Join(dir, "[aj]*"))
	for _, f := range old {
		os.Remove(f)
	}
	back, err := issuer.LoadCA(dir)
	if err != nil || !back.Certificate().Equal(ca.Certificate()) || len(back.Authorities()) != 2 {
		t.Fatal(back, err)
	}
	if third, err := issuer.LoadCA(dir); err != nil || third.Authorities()[1].ID != back.Authorities()[1].ID {
		t.Errorf("the key was not kept: %v", err)
	}
}

func TestFederatedBundle(t *testing.T) {
	west := spiffeid.RequireTrustDomainFromString("west.dev.example")
	other, err := issuer.NewCA(west, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	known := recordsOf(trust.Record{Region: "west", TrustDomain: west, X509Roots: []*x509.Certificate{other.Certificate()}, Version: 7,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		JWTKeys: []trust.JWTKey{{ID: "now", Key: &newKey(t).PublicKey, NotAfter: time.Now().Add(time.Hour)}, {ID: "over", Key: &newKey(t).PublicKey, NotAfter: time.Now()}}})
	r := newRegion(t, func(c *issuer.Config) {
		c.Trust = known
		c.Entries[1].FederatesWith = []spiffeid.TrustDomain{west}
	})
	c, _ := r.attest()
	b, err := c.FederatedBundle(t.Context(), west)
	if n, _ := b.SequenceNumber(); err != nil || n != 7 || !b.HasX509Authority(other.Certificate()) {
		t.Errorf("%v, %v", b, err)
	}
	if keys := b.JWTAuthorities(); len(keys) != 1 || !known.all[0].JWTKeys[0].Key.Equal(keys["now"]) {
		t.Errorf("JWT keys: %v", keys)
	}
	for _, td := range []string{"east.dev.example", "north.dev.example"} {
		if _, err := c.FederatedBundle(t.Context(), spiffeid.RequireTrustDomainFromString(td)); !errors.Is(err, spire.ErrRefused) {
			t.Errorf("%s: %v", td, err)
		}
	}
	known.publish(func(r *trust.Record) { r.NotAfter = time.Now() })
	if _, err := c.FederatedBundle(t.Context(), west); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("expired record: %v", err)
	}
}

// records are trust records that somebody signed.
type records struct {
	mu  sync.Mutex
	all []trust.Record
}

func recordsOf(all ...trust.Record) *records { return &records{all: all} }

// publish is the next version of the first.
func (r *records) publish(change func(*trust.Record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.all[0])
	r.all[0].Version++
}

func (r *records) Regions() []trust.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

func (r *records) Record(td spiffeid.TrustDomain) (trust.Record, bool) {
	all := r.Regions()
	i := slices.IndexFunc(all, func(x trust.Record) bool { return x.TrustDomain == td })
	if i < 0 {
		return trust.Record{}, false
	}
	return all[i], true
}
