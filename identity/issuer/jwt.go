package issuer

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// DefaultJWTLifetime is how long a JWT-SVID is valid when its entry does not
	// say. It is a bearer token: whoever reads it can use it.
	DefaultJWTLifetime = 5 * time.Minute
	// JWTKeyLifetime is how long a key that signs JWT-SVIDs is one.
	JWTKeyLifetime = 7 * 24 * time.Hour

	maxJWTLifetime = time.Hour
	maxAudiences   = 32
	maxAudience    = 1024 // bytes
)

// ErrAudience means a JWT-SVID was asked for without saying for whom (JWT-SVID
// §3.2), or for too many.
var ErrAudience = errors.New("a JWT-SVID needs 1 to 32 audiences, none of them empty or longer than 1024 bytes")

// JWTRequest asks for one JWT-SVID.
type JWTRequest struct {
	ID       spiffeid.ID
	Audience []string
	Lifetime time.Duration // zero: DefaultJWTLifetime; at most an hour
	Now      time.Time
}

// JWTSVID is a signed JWT-SVID. The token is a secret.
type JWTSVID struct {
	ID                spiffeid.ID
	Token             string
	IssuedAt, Expires time.Time
	kid               string
}

// String leaves out the token.
func (j JWTSVID) String() string {
	return fmt.Sprintf("JWT-SVID of %s until %s", j.ID, j.Expires.UTC().Format(time.RFC3339))
}

// ApprovedJWT is a JWTRequest that passed CheckJWT. It is spent by IssueJWT.
type ApprovedJWT struct {
	by  *CA
	req atomic.Pointer[JWTRequest]
}

// CheckJWT approves a request or says why not: ErrForeignID or ErrAudience.
func (ca *CA) CheckJWT(req JWTRequest) (*ApprovedJWT, error) {
	if req.Lifetime == 0 {
		req.Lifetime = DefaultJWTLifetime
	}
	switch {
	case req.ID.TrustDomain() != ca.td || req.ID.Path() == "":
		return nil, fmt.Errorf("%w: %q is not in %s", ErrForeignID, req.ID, ca.td)
	case len(req.Audience) == 0 || len(req.Audience) > maxAudiences:
		return nil, fmt.Errorf("%w: %d", ErrAudience, len(req.Audience))
	case slices.ContainsFunc(req.Audience, func(a string) bool { return a == "" || len(a) > maxAudience }):
		return nil, ErrAudience
	case req.Lifetime < time.Second:
		return nil, fmt.Errorf("%w: lifetime %s", ErrAudience, req.Lifetime)
	}
	req.Lifetime = min(req.Lifetime, maxJWTLifetime)
	req.Audience = slices.Clone(req.Audience)
	a := &ApprovedJWT{by: ca}
	a.req.Store(&req)
	return a, nil
}

// IssueJWT signs what CheckJWT approved, or returns ErrSpent. A token never
// outlives the key it is signed with.
func (ca *CA) IssueJWT(a *ApprovedJWT) (JWTSVID, error) {
	if a == nil || a.by != ca {
		return JWTSVID{}, ErrSpent
	}
	req := a.req.Swap(nil)
	if req == nil {
		return JWTSVID{}, ErrSpent
	}
	key, ok := ca.now.Load().in(JWT, Active)
	if !ok || !req.Now.Before(key.NotAfter) {
		return JWTSVID{}, fmt.Errorf("%w: no JWT authority is active and valid", ErrAuthority)
	}
	j := JWTSVID{ID: req.ID, IssuedAt: req.Now.Truncate(time.Second), kid: key.ID}
	if j.Expires = j.IssuedAt.Add(req.Lifetime); j.Expires.After(key.NotAfter) {
		j.Expires = key.NotAfter
	}
	var err error
	j.Token, err = signJWT(key.key, key.ID, claims{
		Subject: req.ID.String(), Audience: req.Audience, Expires: j.Expires.Unix(), IssuedAt: j.IssuedAt.Unix(), ID: rand.Text(),
	})
	return j, err
}

// claims of a JWT-SVID (JWT-SVID §3; RFC 7519 §4.1).
type claims struct {
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expires  int64    `json:"exp"`
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"`
}

// signJWT makes a JWS in compact form (RFC 7515 §3.1) with ES256 (RFC 7518 §3.4).
func signJWT(key *ecdsa.PrivateKey, kid string, c claims) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": kid, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding
	input := b64.EncodeToString(header) + "." + b64.EncodeToString(payload)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + b64.EncodeToString(sig), nil
}
