package authz

import (
	"context"
	"net/http/httptest"
	"strings"
)

// ServeOnce answers one request without a listener.
func ServeOnce(ctx context.Context, z *AuthZEN, api, body string) (status int, said string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, "POST", "/access/v1/"+api, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	z.handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}
