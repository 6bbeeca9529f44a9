package enrolling

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

var shop = spiffeid.RequireFromString("spiffe://east.dev.example/workload/shop")

// tokenIssuer counts what is asked of an issuer that can be away.
type tokenIssuer struct {
	mu    sync.Mutex
	asked int
	err   error
	wait  time.Duration
	keys  *jwtbundle.Bundle
}

func (i *tokenIssuer) issue(_ context.Context, _ string, id spiffeid.ID, audience []string) (*jwtsvid.SVID, error) {
	time.Sleep(i.wait) // virtual time
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	if i.err != nil {
		return nil, i.err
	}
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := map[string]any{"sub": id.String(), "aud": audience, "exp": time.Now().Add(5 * time.Minute).Unix(), "jti": fmt.Sprint(i.asked)}
	return jwtsvid.ParseInsecure(part(map[string]any{"alg": "ES256", "kid": "k"})+"."+part(claims)+".AAAA", audience)
}

func (i *tokenIssuer) tokens() *Tokens {
	return &Tokens{issue: i.issue, keys: func() *jwtbundle.Bundle { return i.keys }}
}

func mustGet(t *testing.T, tokens *Tokens, audience ...string) *jwtsvid.SVID {
	t.Helper()
	svid, err := tokens.Get(t.Context(), "entry", shop, audience)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

// TestTokensAreKept: for half of their life, and to their end while no issuer
// answers.
func TestTokensAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &tokenIssuer{}
		tokens := i.tokens()
		first := mustGet(t, tokens, "web", "db")
		time.Sleep(2 * time.Minute)
		if again := mustGet(t, tokens, "db", "web", "web"); again != first || i.asked != 1 {
			t.Errorf("not the token kept: asked %d times", i.asked)
		}
		for _, audience := range []string{"web", "db\x00web", `db" "web`} {
			if other := mustGet(t, tokens, audience); other == first {
				t.Errorf("a token for another audience than %q", audience)
			}
		}
		time.Sleep(time.Minute)
		i.err = fmt.Errorf("issuer: %w", spire.ErrUnreachable)
		if again := mustGet(t, tokens, "web", "db"); again != first || i.asked != 5 {
			t.Errorf("cut off, not the token kept: asked %d times", i.asked)
		}
		i.err = spire.ErrRefused
		if svid, err := tokens.Get(t.Context(), "entry", shop, []string{"web", "db"}); !errors.Is(err, spire.ErrRefused) {
			t.Errorf("refused, and still %v, %v", svid, err)
		}
		i.err = spire.ErrUnreachable
		time.Sleep(2 * time.Minute)
		if svid, err := tokens.Get(t.Context(), "entry", shop, []string{"web", "db"}); !errors.Is(err, spire.ErrUnreachable) {
			t.Errorf("expired, and still %v, %v", svid, err)
		}
		i.err = nil
		if again := mustGet(t, tokens, "web", "db"); again == first {
			t.Error("an expired token")
		}
	})
}

// TestTokensGoWithTheirKeys: nobody gets a token that nobody can verify.
func TestTokensGoWithTheirKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &tokenIssuer{}
		tokens := i.tokens()
		first := mustGet(t, tokens, "web")
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		i.keys = jwtbundle.New(shop.TrustDomain())
		if err := i.keys.AddJWTAuthority("k2", key.Public()); err != nil {
			t.Fatal(err)
		}
		if again := mustGet(t, tokens, "web"); again == first {
			t.Error("a token from before the keys changed")
		}
	})
}

// TestTokensAskOnce: many local processes, one request; one that leaves does not
// end it for the others.
func TestTokensAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &tokenIssuer{wait: time.Second}
		tokens := i.tokens()
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := tokens.Get(ctx, "entry", shop, []string{"web"}); !errors.Is(err, context.Canceled) {
				t.Errorf("who left got %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() { mustGet(t, tokens, "web") })
		}
		synctest.Wait()
		leave()
		wg.Wait()
		if i.asked != 1 {
			t.Errorf("asked %d times", i.asked)
		}
	})
}

// TestTokensAreBounded: a process chooses its audiences.
func TestTokensAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &tokenIssuer{}
		tokens := i.tokens()
		for n := range maxTokens + 10 {
			mustGet(t, tokens, fmt.Sprint(n))
			time.Sleep(time.Millisecond)
		}
		if len(tokens.kept) != maxTokens {
			t.Errorf("%d kept", len(tokens.kept))
		}
		if mustGet(t, tokens, fmt.Sprint(maxTokens+9)); i.asked != maxTokens+10 {
			t.Error("the newest was not kept")
		}
		time.Sleep(6 * time.Minute)
		if mustGet(t, tokens, "x"); len(tokens.kept) != 1 {
			t.Errorf("%d kept after all expired", len(tokens.kept))
		}
	})
}
