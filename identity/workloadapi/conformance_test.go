package workloadapi

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestJWTSVIDConformance: which tokens are validated, section by section of the JWT-SVID
// standard. What is wrong in one point only is refused.
func TestJWTSVIDConformance(t *testing.T) {
	f, east, west := withTokens(t)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.src.set(func(s *source) {
		if err := s.bundles[0].AddJWTAuthority("ed", edwards.Public()); err != nil {
			t.Fatal(err)
		}
	})
	segment := func(v map[string]any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := func(by signer, header, claims map[string]any) string {
		input := segment(header) + "." + segment(claims)
		digest := sha256.Sum256([]byte(input))
		signature, err := by.key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return input + "." + base64.RawURLEncoding.EncodeToString(fixed(t, signature))
	}
	with := func(m map[string]any, name string, value any) map[string]any {
		m = maps.Clone(m)
		if m[name] = value; value == nil {
			delete(m, name)
		}
		return m
	}
	header := map[string]any{"alg": "ES256", "kid": "e1", "typ": "JWT"}
	claims := claimsOf(shopID, []string{"web"}, time.Minute)
	token := signed(east, header, claims)
	parts := strings.Split(token, ".")
	mac := func() string {
		der, err := x509.MarshalPKIXPublicKey(&east.key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		input := segment(with(header, "alg", "HS256")) + "." + parts[1]
		m := hmac.New(sha256.New, der)
		m.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	input := segment(map[string]any{"alg": "EdDSA", "kid": "ed"}) + "." + parts[1]
	full, err := json.Marshal(map[string]any{"payload": parts[1], "protected": parts[0], "signature": parts[2]})
	if err != nil {
		t.Fatal(err)
	}
	api := workload.NewSpiffeWorkloadAPIClient(f.raw(t))
	ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
	for _, rule := range []struct {
		section, says, token string
		ok                   bool
	}{
		{"2", "compact serialisation", token, true},
		{"2", "JSON serialisation", string(full), false},
		{"2.1", "no signature", segment(with(header, "alg", "none")) + "." + parts[1] + ".", false},
		{"2.1", "a MAC by the public key", mac(), false},
		{"2.1", "an algorithm that is not of the list", input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(edwards, []byte(input))), false},
		{"2.1", "another algorithm than the key's", signed(east, with(header, "alg", "RS256"), claims), false},
		{"2.2", "a key that is not in the bundle", signed(east, with(header, "kid", "e9"), claims), false},
		{"2.2", "no key named", signed(east, with(header, "kid", nil), claims), false},
		{"2.3", "type JOSE", signed(east, with(header, "typ", "JOSE"), claims), true},
		{"2.3", "no type", signed(east, with(header, "typ", nil), claims), true},
		{"2.3", "another type", signed(east, with(header, "typ", "at+jwt"), claims), false},
		{"3.1", "no subject", signed(east, header, with(claims, "sub", nil)), false},
		{"3.1", "a subject that is no SPIFFE ID", signed(east, header, with(claims, "sub", "shop")), false},
		{"3.1", "a subject of another trust domain", signed(east, header, with(claims, "sub", "spiffe://west.dev.example/x")), false},
		{"3.2", "no audience", signed(east, header, with(claims, "aud", nil)), false},
		{"3.2", "an empty audience", signed(east, header, with(claims, "aud", []string{})), false},
		{"3.2", "another audience", signed(east, header, with(claims, "aud", []string{"shop"})), false},
		{"3.2", "one of several audiences", signed(east, header, with(claims, "aud", []string{"shop", "web"})), true},
		{"3.2", "an audience that is no list", signed(east, header, with(claims, "aud", "web")), true}, // RFC 7519 §4.1.3
		{"3.3", "no expiry", signed(east, header, with(claims, "exp", nil)), false},
		{"3.3", "expired", signed(east, header, with(claims, "exp", time.Now().Add(-5*time.Minute).Unix())), false},
		{"3", "not valid yet", signed(east, header, with(claims, "nbf", time.Now().Add(time.Hour).Unix())), false},
		{"4", "changed claims", parts[0] + "." + segment(with(claims, "tenant", "red")) + "." + parts[2], false},
		{"4", "another's signature", signed(west, header, claims), false},
	} {
		resp, err := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Svid: rule.token, Audience: "web"})
		switch {
		case rule.ok && (err != nil || resp.GetSpiffeId() != shopID):
			t.Errorf("JWT-SVID %s: %s: %v", rule.section, rule.says, err)
		case !rule.ok && status.Code(err) != codes.InvalidArgument:
			t.Errorf("JWT-SVID %s: %s: %v, %v", rule.section, rule.says, resp, err)
		}
	}
}

// TestBundleConformance: what workloads get as trust bundles, section by section of the
// standards.
func TestBundleConformance(t *testing.T) {
	f, east, _ := withTokens(t)
	api := workload.NewSpiffeWorkloadAPIClient(f.raw(t))
	ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
	tokens, err := api.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := tokens.Recv()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := api.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var raw struct {
		Keys []map[string]any `json:"keys"`
	}
	const own = "spiffe://east.dev.example"
	if err := json.Unmarshal(keys.Bundles[own], &raw); err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(keys.Bundles[own], &set); err != nil {
		t.Fatal(err)
	}
	every := func(holds func(map[string]any) bool) bool {
		return len(raw.Keys) > 0 && !slices.ContainsFunc(raw.Keys, func(k map[string]any) bool { return !holds(k) })
	}
	names := slices.Concat(slices.Collect(maps.Keys(keys.Bundles)), slices.Collect(maps.Keys(roots.Bundles)))
	for _, rule := range []struct {
		section, says string
		ok            bool
	}{
		{"Workload API 5", "bundles are named by trust domain IDs", !slices.ContainsFunc(names, func(s string) bool {
			id, err := spiffeid.FromString(s)
			return err != nil || id.Path() != ""
		})},
		{"Workload API 5", "own and federated trust domains", len(keys.Bundles) == 2 && len(roots.Bundles) == 2},
		{"Bundle 4.1.3", "a key set that a stock parser reads", len(set.Keys) == len(raw.Keys) && len(set.Keys) == 1},
		{"Bundle 4.2.1", "every key has a type", every(func(k map[string]any) bool { return k["kty"] == "EC" })},
		{"JWT-SVID 6.1", "every key has an ID", every(func(k map[string]any) bool { return k["kid"] == "e1" })},
		{"Bundle 4.3", "no private key", every(func(k map[string]any) bool { _, has := k["d"]; return !has })},
		{"JWT-SVID 6.1", "it is the key that signs", east.key.PublicKey.Equal(set.Keys[0].Key)},
		{"JWT-SVID 6.1", "no X.509 authority among JWT keys", every(func(k map[string]any) bool { _, has := k["x5c"]; return !has })},
		{"X509-SVID 6.1", "authorities as they are, DER after DER", bytes.Equal(roots.Bundles[own], f.src.bundles[0].X509Authorities()[0].Raw)},
	} {
		if !rule.ok {
			t.Errorf("%s: %s: %s of %v", rule.section, rule.says, keys.Bundles[own], names)
		}
	}
}

// fixed writes an ECDSA signature in the form of JWS (RFC 7518 §3.4).
func fixed(t *testing.T, der []byte) []byte {
	t.Helper()
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		t.Fatal(err)
	}
	return append(s.R.FillBytes(make([]byte, 32)), s.S.FillBytes(make([]byte, 32))...)
}
