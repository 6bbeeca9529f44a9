package issuing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

var (
	tdEast = spiffeid.RequireTrustDomainFromString("east.dev.example")
	nodeN1 = spiffeid.RequireFromPath(tdEast, "/node/n1")
	nodeN2 = spiffeid.RequireFromPath(tdEast, "/node/n2")
	nodeN3 = spiffeid.RequireFromPath(tdEast, "/node/n3")
)

var errNoAuthority = errors.New("no link to it")

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closing twice is no error
	return s
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := statement.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// leafOf is the body of the newest leaf of a kind that waits in the outbox.
func leafOf(t *testing.T, st *store.Store, kind trail.Kind) (body string) {
	t.Helper()
	all, err := st.Outbox(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Kind == kind.String() {
			body = string(l.Body)
		}
	}
	return body
}
