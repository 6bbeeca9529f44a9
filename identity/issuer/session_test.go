package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

var (
	west     = spiffeid.RequireTrustDomainFromString("west.dev.example")
	westNode = spiffeid.RequireFromPath(west, "/node/n1")
	westWork = spiffeid.RequireFromPath(west, "/workload/w")
)

func newSession(t *testing.T, ca *CA, now time.Time) *session {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	approved, err := ca.Check(Request{ID: westNode, CSR: csr, Now: now, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(approved)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{}
	s.State = tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	return s
}

// What a connection remembers of its certificate says nothing of another moment or
// of other authorities.
func TestVerdictOfAMoment(t *testing.T) {
	now := time.Now()
	ca, err := NewCA(west, now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewCA(west, now)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, ca, now)
	asked, fine := 0, true
	welcome := func(spiffeid.ID, [][]*x509.Certificate) error {
		asked++
		if !fine {
			return errors.New("not any more")
		}
		return nil
	}
	of := func(a *authorities) *roots { return &roots{own: a, bundle: a.bundle(west)} }
	same := of(ca.now.Load())
	again := of(ca.now.Load().next()) // the same roots in a new generation
	for _, c := range []struct {
		name  string
		by    *roots
		at    time.Duration
		fine  bool
		asked int // how often by now
		want  error
	}{
		{"first", same, 0, true, 1, nil},
		{"remembered", same, time.Minute, true, 1, nil},
		{"remembered, to the last second", same, time.Hour - time.Second, true, 1, nil},
		{"past its end", same, time.Hour + time.Second, true, 1, identity.ErrExpired},
		{"before its beginning", same, -time.Minute, true, 1, identity.ErrExpired},
		{"in time again", same, time.Minute, true, 1, nil},
		{"other roots", of(other.now.Load()), time.Minute, true, 1, identity.ErrUntrusted},
		{"a new generation", again, time.Minute, true, 2, nil},
		{"and that remembered", again, time.Minute, true, 2, nil},
		{"the generation before", same, time.Minute, true, 3, nil},
		{"a new generation, not welcome any more", again, time.Minute, false, 4, identity.ErrRefused},
	} {
		fine = c.fine
		id, err := s.verify(now.Add(c.at), c.by, welcome)
		if !errors.Is(err, c.want) || err == nil && id != westNode || asked != c.asked {
			t.Errorf("%s: %s, %v, asked %d times, want %v, %d", c.name, id, err, asked, c.want, c.asked)
		}
	}
}

// What a connection remembers of the entries ends with them, with the directory,
// with the agent's record and with the first entry that expires.
func TestReachOfAMoment(t *testing.T) {
	now := time.Now()
	agent := spiffeid.RequireFromPath(west, "/spire/agent/join_token/x")
	entry := func(end time.Time) Entry {
		return Entry{SPIFFEID: westWork, ParentID: agent, Selectors: []string{"unix:uid:1"}, Expires: end}
	}
	alias := Entry{SPIFFEID: spiffeid.RequireFromPath(west, "/fleet"), ParentID: serverID(west), Selectors: []string{"tpm:a"}}
	made := func(entries ...Entry) *directory {
		d, err := newDirectory(west, entries)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	with, without, both := made(entry(now.Add(time.Minute))), made(), made(entry(time.Time{}), alias)
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := &session{}
	record := func(selectors ...string) (r *readRecord) {
		t.Helper()
		a, err := newAgentRecord(selectors)
		if err != nil {
			t.Fatal(err)
		}
		err = st.Update(func(tx *store.Tx) error { return a.save(tx, westNode) })
		if err == nil {
			err = st.View(func(tx *store.Tx) error { r, err = s.load(tx, westNode); return err })
		}
		if err != nil || !slices.Equal(r.Selectors, selectors) {
			t.Fatal(r, err)
		}
		return r
	}
	plain := record()
	if again := record(); again != plain {
		t.Error("the same record was decoded twice")
	}
	a := record("tpm:a")
	for _, c := range []struct {
		name   string
		d      *directory
		record *readRecord
		at     time.Duration
		want   int
	}{
		{"one", with, plain, 0, 1},
		{"remembered", with, plain, time.Minute - 1, 1},
		{"expired", with, plain, time.Minute, 0},
		{"the clock went back", with, plain, time.Second, 1},
		{"taken away", without, plain, 0, 0},
		{"without the selector", both, plain, 0, 1},
		{"with it", both, a, 0, 2},
		{"lost again", both, record(), 0, 1},
	} {
		if got := s.reachable(c.d, agent, c.record, now.Add(c.at)); len(got) != c.want {
			t.Errorf("%s: %v, want %d", c.name, got, c.want)
		}
	}
}

func newAgentRecord(selectors []string) (agent, error) {
	return newAgent("x509pop", Attested{Selectors: selectors}, time.Unix(1, 0))
}
