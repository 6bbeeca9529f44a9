package workloadapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
)

// signer signs JWT-SVIDs of one trust domain.
type signer struct {
	kid string
	key *ecdsa.PrivateKey
}

func newSigner(t testing.TB, kid string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, key}
}

func (s signer) sign(claims map[string]any) (string, error) {
	sig, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(sig).Claims(claims).Serialize()
}

func claimsOf(id string, audience []string, life time.Duration) map[string]any {
	return map[string]any{"sub": id, "aud": audience, "exp": time.Now().Add(life).Unix(), "tenant": "blue"}
}

// withTokens is a fixture whose identities get tokens, and whose two trust domains
// have a JWT key each.
func withTokens(t testing.TB) (f *fixture, east, west signer) {
	f, east, west = start(t, nil), newSigner(t, "e1"), newSigner(t, "w1")
	f.src.set(func(s *source) {
		s.sign = func(i Identity, audience []string) (string, error) {
			return east.sign(claimsOf(i.SVID.ID.String(), audience, time.Minute))
		}
		for i, key := range []signer{east, west} {
			if err := s.bundles[i].AddJWTAuthority(key.kid, key.key.Public()); err != nil {
				t.Fatal(err)
			}
		}
	})
	return f, east, west
}

// TestJWT: go-spiffe's client gets tokens and keys that go together.
func TestJWT(t *testing.T) {
	f, east, _ := withTokens(t)
	second := makeSVID(t, "spiffe://east.dev.example/workload/second", time.Hour)
	f.src.set(func(s *source) {
		s.entries = append(s.entries, entry{[]string{"unix:uid:1000"}, Identity{SVID: second, Hint: "other"}})
	})
	c := f.client(t)
	svids, err := c.FetchJWTSVIDs(timeout(t), jwtsvid.Params{Audience: "web", ExtraAudiences: []string{"db"}})
	if err != nil || len(svids) != 2 || svids[0].ID.String() != shopID || svids[1].Hint != "other" || !slices.Equal(svids[0].Audience, []string{"web", "db"}) {
		t.Fatalf("got %+v, %v", svids, err)
	}
	one, err := c.FetchJWTSVID(timeout(t), jwtsvid.Params{Audience: "web", Subject: second.ID})
	if err != nil || one.ID != second.ID {
		t.Errorf("by name: %v, %v", one, err)
	}
	keys, err := c.FetchJWTBundles(timeout(t))
	if err != nil || keys.Len() != 2 {
		t.Fatalf("bundles: %v, %v", keys, err)
	}
	if b, _ := keys.Get(second.ID.TrustDomain()); !b.Equal(jwtbundle.FromJWTAuthorities(second.ID.TrustDomain(), b.JWTAuthorities())) || !east.key.PublicKey.Equal(b.JWTAuthorities()["e1"]) {
		t.Errorf("keys of east: %v", b.JWTAuthorities())
	}
	if _, err := jwtsvid.ParseAndValidate(one.Marshal(), keys, []string{"web"}); err != nil {
		t.Error(err)
	}
	if got, err := c.ValidateJWTSVID(timeout(t), one.Marshal(), "web"); err != nil || got.ID != second.ID {
		t.Errorf("validated: %v, %v", got, err)
	}
}

func TestFetchJWTSVIDRefuses(t *testing.T) {
	tests := []struct {
		name  string
		req   *workload.JWTSVIDRequest
		spoil func(*fixture)
		code  codes.Code
		text  string
	}{
		{"no audience", &workload.JWTSVIDRequest{}, nil, codes.InvalidArgument, "audience must be specified"},
		{"empty audience", &workload.JWTSVIDRequest{Audience: []string{"a", ""}}, nil, codes.InvalidArgument, "audience must be specified"},
		{"many audiences", &workload.JWTSVIDRequest{Audience: slices.Repeat([]string{"a"}, maxAudiences+1)}, nil, codes.InvalidArgument, "at most 32"},
		{"no ID", &workload.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "http://x"}, nil, codes.InvalidArgument, "invalid requested SPIFFE ID"},
		{"another's ID", &workload.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "spiffe://east.dev.example/workload/bank"}, nil, codes.PermissionDenied, "no identity issued"},
		{"no identity", &workload.JWTSVIDRequest{Audience: []string{"a"}}, func(f *fixture) { f.src.entries = nil }, codes.PermissionDenied, "no identity issued"},
		{"nobody signs", &workload.JWTSVIDRequest{Audience: []string{"a"}}, func(f *fixture) {
			f.src.sign = func(Identity, []string) (string, error) { return "", errors.New("cut off") }
		}, codes.Unavailable, "could not fetch JWT-SVID: cut off"},
		{"gone", &workload.JWTSVIDRequest{Audience: []string{"a"}}, func(f *fixture) { f.proc.become(caller.ErrGone) }, codes.PermissionDenied, "has ended"},
		{"gone meanwhile", &workload.JWTSVIDRequest{Audience: []string{"a"}}, func(f *fixture) {
			sign := f.src.sign
			f.src.sign = func(i Identity, audience []string) (string, error) {
				f.proc.become(caller.ErrChanged)
				return sign(i, audience)
			}
		}, codes.PermissionDenied, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, _, _ := withTokens(t)
			if tt.spoil != nil {
				f.src.set(func(*source) { tt.spoil(f) })
			}
			ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
			resp, err := workload.NewSpiffeWorkloadAPIClient(f.raw(t)).FetchJWTSVID(ctx, tt.req)
			if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, %v, want %s with %q", resp, err, tt.code, tt.text)
			}
		})
	}
}

func TestValidateJWTSVID(t *testing.T) {
	f, east, west := withTokens(t)
	token := func(by signer, claims map[string]any) string {
		t.Helper()
		out, err := by.sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	westID := "spiffe://west.dev.example/x"
	good := token(east, claimsOf(shopID, []string{"web", "db"}, time.Minute))
	tests := []struct {
		name, svid, audience string
		claims               []string // nil: refused
	}{
		{"own", good, "web", []string{"aud", "exp", "sub", "tenant"}},
		{"foreign: only the claims everybody knows", token(west, claimsOf(westID, []string{"web"}, time.Minute)), "web", []string{"aud", "exp", "sub"}},
		{"no audience", good, "", nil},
		{"no token", "", "web", nil},
		{"no JWT", "x.y", "web", nil},
		{"too long", strings.Repeat("x", maxToken+1), "web", nil},
		{"for somebody else", good, "shop", nil},
		{"expired", token(east, claimsOf(shopID, []string{"web"}, -10*time.Minute)), "web", nil},
		{"signed by another domain", token(west, claimsOf(shopID, []string{"web"}, time.Minute)), "web", nil},
		{"unknown domain", token(west, claimsOf("spiffe://north.dev.example/x", []string{"web"}, time.Minute)), "web", nil},
		{"unknown key", token(newSigner(t, "e1"), claimsOf(shopID, []string{"web"}, time.Minute)), "web", nil},
		{"cut", good[:len(good)-8], "web", nil},
	}
	ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
	api := workload.NewSpiffeWorkloadAPIClient(f.raw(t))
	f.src.set(func(s *source) { s.entries = nil }) // it needs no identity
	for _, tt := range tests {
		resp, err := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Svid: tt.svid, Audience: tt.audience})
		if tt.claims == nil {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v, %v", tt.name, resp, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		claims := resp.GetClaims().AsMap()
		if got := slices.Sorted(maps.Keys(claims)); !slices.Equal(got, tt.claims) {
			t.Errorf("%s: claims %v", tt.name, got)
		}
		if _, list := claims["aud"].([]any); !list || claims["sub"] != resp.SpiffeId {
			t.Errorf("%s: %v of %s", tt.name, claims, resp.SpiffeId)
		}
	}
	f.proc.refuse(caller.ErrUnattributed)
	api = workload.NewSpiffeWorkloadAPIClient(f.raw(t)) // another connection
	if _, err := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Svid: good, Audience: "web"}); status.Code(err) != codes.Unavailable {
		t.Errorf("not attributed: %v", err)
	}
}

// TestJWTBundlesArePushed: a new key reaches who watches, before anything is signed
// with it.
func TestJWTBundlesArePushed(t *testing.T) {
	f, _, _ := withTokens(t)
	ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(f.raw(t)).FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *jwtbundle.Bundle {
		t.Helper()
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		td := spiffeid.RequireTrustDomainFromString("east.dev.example")
		b, err := jwtbundle.Parse(td, resp.Bundles[td.IDString()])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := next(); len(b.JWTAuthorities()) != 1 {
		t.Errorf("first: %v", b.JWTAuthorities())
	}
	f.src.set(func(s *source) {
		b := s.bundles[0].Clone()
		_ = b.AddJWTAuthority("e2", newSigner(t, "e2").key.Public())
		s.bundles = append([]*spiffebundle.Bundle{b}, s.bundles[1:]...)
	})
	if b := next(); len(b.JWTAuthorities()) != 2 {
		t.Errorf("second: %v", b.JWTAuthorities())
	}
}
