package issuer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// epochCert is one of a root, for a key.
func epochCert(t testing.TB, root *epoch.Root, node spiffeid.ID, class string, key *ecdsa.PrivateKey, now time.Time) []byte {
	t.Helper()
	a, err := root.Check(epoch.Request{ID: node, Epoch: 3, Class: class, Key: &key.PublicKey, Lifetime: time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := root.Issue(a)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// twisted changes what a proof answers.
type twisted struct {
	spire.EpochProof
	how func(spire.Question) spire.Question
}

func (w twisted) Begin(ctx context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	b, answer, err := w.EpochProof.Begin(ctx)
	return b, func(q spire.Question) ([]byte, error) { return answer(w.how(q)) }, err
}

// A node without a TPM is heard by the key of its feed, and marked; it gets nothing by it, and nobody
// else is heard in its place.
func TestAppealByAnEpochKey(t *testing.T) {
	var heard []issuer.Appeal
	var root *epoch.Root
	r := newRegion(t, func(c *issuer.Config) {
		var err error
		if root, err = epoch.NewRoot(east, time.Now().Add(-3*time.Hour)); err != nil {
			t.Fatal(err)
		}
		c.RecordRoot = root
		c.Attestors = append(c.Attestors, issuer.EpochProof{TrustDomain: east, Roots: func() []*x509.Certificate {
			return []*x509.Certificate{root.Certificate()}
		}})
		c.Appeal = func(_ context.Context, a issuer.Appeal) error { heard = append(heard, a); return nil }
	})
	key, node := newKey(t), id("/node/n9")
	proof := spire.EpochProof{TrustDomain: east, Cert: epochCert(t, root, node, "unattested", key, time.Now()), Key: key}
	says := func(by spire.Attester) error { return spire.Appeal(t.Context(), r.cfg, by, newKey(t), "it is mended") }
	if err := says(proof); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("in good standing: %v", err)
	}
	r.quarantine(node)
	foreign, err := epoch.NewRoot(east, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	with := func(cert []byte, key *ecdsa.PrivateKey) spire.EpochProof {
		return spire.EpochProof{TrustDomain: east, Cert: cert, Key: key}
	}
	for name, by := range map[string]spire.Attester{
		"another key":       with(proof.Cert, newKey(t)),
		"another root":      with(epochCert(t, foreign, node, "unattested", key, time.Now()), key),
		"a node with a TPM": with(epochCert(t, root, node, "node", key, time.Now()), key),
		"no certificate":    with([]byte{1}, key),
		"another region": spire.EpochProof{TrustDomain: spiffeid.RequireTrustDomainFromString("west.dev.example"),
			Cert: proof.Cert, Key: key},
		"from another channel": twisted{proof, func(q spire.Question) spire.Question {
			q.Exporter = bytes.Repeat([]byte{1}, len(q.Exporter))
			return q
		}},
		"from another day": twisted{proof, func(q spire.Question) spire.Question {
			q.Challenge = bytes.Repeat([]byte{1}, len(q.Challenge))
			return q
		}},
	} {
		if err := says(by); !errors.Is(err, spire.ErrRefused) || len(heard) != 0 {
			t.Fatalf("%s: %v, heard %d", name, err, len(heard))
		}
	}
	if err := says(proof); err != nil {
		t.Fatal(err)
	}
	if err := says(with(epochCert(t, root, node, "unattested", key, time.Now().Add(-2*time.Hour)), key)); err != nil {
		t.Errorf("with a certificate that has ended: %v", err)
	}
	want := issuer.Appeal{Node: node, Note: "it is mended", Epoch: 3}
	if len(heard) != 2 || heard[0] != want || heard[1] != want {
		t.Errorf("heard %+v, want %+v twice", heard, want)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, proof, newKey(t)); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("without a note: %v", err)
	}
	if l := r.leaves(); l["issuer.issue agent"] != 0 {
		t.Errorf("leaves: %v; want nothing issued", l)
	}
}

// What a token or an operator's certificate proves is enough to be heard, and marked as well.
func TestAppealByAToken(t *testing.T) {
	var heard []issuer.Appeal
	agent, err := issuer.AgentID(east, "join_token", "d098ab5e44b9aabb755f76d806598f43573c662b35e4a2eab1e312ec9ad195e2") // SHA-256 of "fresh"
	if err != nil {
		t.Fatal(err)
	}
	node := id("/node/n9")
	r := newRegion(t, func(c *issuer.Config) {
		c.Entries = append(c.Entries, issuer.Entry{SPIFFEID: node, ParentID: agent})
		c.Appeal = func(_ context.Context, a issuer.Appeal) error { heard = append(heard, a); return nil }
	})
	r.token("fresh", time.Hour)
	r.quarantine(node)
	if err := spire.Appeal(t.Context(), r.cfg, spire.NewJoinToken("fresh"), newKey(t), "it is mended"); err != nil {
		t.Fatal(err)
	}
	if want := (issuer.Appeal{Node: node, Note: "it is mended"}); len(heard) != 1 || heard[0] != want {
		t.Errorf("heard %+v, want %+v", heard, want)
	}
}

func FuzzEpochProof(f *testing.F) {
	root, err := epoch.NewRoot(east, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	key := newKey(f)
	cert := epochCert(f, root, id("/node/n9"), "unattested", key, time.Now())
	answer, err := statement.Sign(key, issuer.EpochProofType, east.Name(), []byte{0xa0})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert, answer)
	proof := issuer.EpochProof{TrustDomain: east, Roots: func() []*x509.Certificate { return []*x509.Certificate{root.Certificate()} }}
	f.Fuzz(func(t *testing.T, cert, answer []byte) {
		_, err := proof.Attest(t.Context(), issuer.Evidence{Payload: cert, Exporter: []byte{1}}, func([]byte) ([]byte, error) { return answer, nil })
		if !errors.Is(err, issuer.ErrEvidence) { // the challenge is of this moment
			t.Errorf("got %v", err)
		}
	})
}
