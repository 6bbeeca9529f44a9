package issuer_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// The whole way of a node: attest, be named, get SVIDs, enrol.
func TestNode(t *testing.T) {
	r := newRegion(t, nil)
	c, a := r.attest()
	if a.SVID.ID != r.machine.id() || !a.Reattest {
		t.Fatalf("agent %s, reattest %v", a.SVID.ID, a.Reattest)
	}
	if err := c.PostStatus(t.Context(), 1, "test"); err != nil {
		t.Error(err)
	}
	if b, err := c.Bundle(t.Context()); err != nil || !b.Equal(r.ca.Bundle()) {
		t.Error(b, err)
	}
	entries, err := c.Entries(t.Context(), nil)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	node, work := r.entry(c, n1), r.entry(c, shop)
	if !slices.Equal(work.Selectors, []string{"unix:uid:1000"}) || work.ParentID != n1 || work.Hint != "shop" || !slices.Equal(node.Selectors, []string{"bailiwick:node"}) {
		t.Errorf("%+v, %+v", node, work)
	}
	workKey := newKey(t)
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{
		{EntryID: node.ID, ID: n1, Key: r.machine.key},
		{EntryID: work.ID, ID: shop, Key: workKey},
	})
	if err != nil || results[0].Err != nil || results[1].Err != nil {
		t.Fatal(results, err)
	}
	leaf := results[1].SVID.Certificates[0]
	if life := time.Until(leaf.NotAfter); life > time.Minute || results[1].SVID.Hint != "shop" {
		t.Errorf("lives %s, hint %q", life, results[1].SVID.Hint)
	}
	if leaf.Subject.String() != "O=SPIRE,C=US" || len(leaf.ExtKeyUsage) != 2 || leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement {
		t.Errorf("profile: %s, %v, %v", leaf.Subject, leaf.ExtKeyUsage, leaf.KeyUsage)
	}

	en, err := c.Enrol(t.Context(), nil, 5, make([]byte, 32), 0)
	if err != nil {
		t.Fatal(err)
	}
	roots := []*x509.Certificate{r.root.Certificate()}
	for i, der := range [][]byte{en.Epoch, en.Spare} {
		cert, err := epoch.Verify(der, roots, east, time.Now())
		if err != nil || cert.ID != n1 || cert.Epoch != uint64(5+i) || cert.Class != "node" || !cert.Key.Equal(&r.machine.feed.PublicKey) || len(cert.PrevHead) != 32*(1-i) {
			t.Errorf("epoch certificate %d: %+v, %v", i, cert, err)
		}
	}
	e, err := endorse.Verify(en.Endorsement, &r.authority.PublicKey, east, time.Now())
	if err != nil || e.ID != n1 || !e.AK.Equal(&r.machine.ak.PublicKey) || e.NodeKey != sha256.Sum256(pkix(t, &r.machine.key.PublicKey)) || e.ResetCount != 3 {
		t.Errorf("endorsement %+v, %v", e, err)
	}
	if en.Node != n1 || en.Class != "node" || len(en.TrustRecords) != 1 || len(en.PolicyHeads) != spire.MaxPolicyHeads || string(en.PolicyHeads[0]) != n1.String() {
		t.Errorf("%+v", en)
	}

	// With the node SVID, what is below the node.
	nc := r.dial(spire.Agent{SVID: results[0].SVID})
	if entries, err := nc.Entries(t.Context(), nil); err != nil || len(entries) != 1 || entries[0].SPIFFEID != shop {
		t.Errorf("entries of the node: %v, %v", entries, err)
	}
	if _, err := nc.Enrol(t.Context(), nil, 0, nil, 0); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("enrol with the node SVID: %v", err)
	}
	want := map[string]int{"issuer.attest true": 1, "issuer.issue agent": 1, "issuer.issue node": 1, "issuer.issue workload": 1,
		"issuer.issue epoch": 2, "issuer.issue endorsement": 1, "issuer.issue server": 1, "issuer.refuse epoch": 1}
	if got := r.leaves(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("trail\n got %v\nwant %v", got, want)
	}
	if agents, err := r.server.Agents(); err != nil || len(agents) != 1 || agents[0].Node != n1 || !agents[0].TPM {
		t.Error(agents, err)
	}
}

func TestAttestationRefused(t *testing.T) {
	r := newRegion(t, nil)
	for _, c := range []struct {
		name   string
		change func(*fakeMachine)
		say    string
	}{
		{"failed rule, by name", func(m *fakeMachine) { m.wrongAnswer = true }, "quote-nonce"},
		{"CSR for another key than the attested", func(m *fakeMachine) { m.claimed = &newKey(t).PublicKey }, "attested key"},
		{"oversized evidence", func(m *fakeMachine) { m.hugeHello = issuer.MaxEvidence + 1 }, "bytes"},
		{"oversized message", func(m *fakeMachine) { m.hugeHello = issuer.MaxEvidence + 1<<20 }, ""},
		{"name that is no path segment", func(m *fakeMachine) { m.name = "../x" }, ""},
	} {
		saved := *r.machine
		c.change(r.machine)
		_, err := spire.Attest(t.Context(), r.cfg, r.machine, saved.key)
		*r.machine = saved
		if err == nil || errors.Is(err, spire.ErrAnswer) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := spire.Attest(t.Context(), r.cfg, unknownType{}, newKey(t)); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "FailedPrecondition") {
		t.Errorf("unknown type: %v", err)
	}
	got := r.leaves()
	if got["issuer.attest false"] != 5 || got["issuer.issue agent"] != 0 { // the oversized message never arrives
		t.Errorf("trail: %v", got)
	}
}

type unknownType struct{ *fakeMachine }

func (unknownType) Type() string { return "nobody" }
func (unknownType) Begin(context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	return []byte("x"), nil, nil
}

func TestSVIDRefused(t *testing.T) {
	r := newRegion(t, nil)
	c, _ := r.attest()
	node, work := r.entry(c, n1), r.entry(c, shop)
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{
		{EntryID: node.ID, ID: n1, Key: newKey(t)},
		{EntryID: work.ID, ID: id("/workload/admin"), Key: newKey(t)},
		{EntryID: "nobody's", ID: shop, Key: newKey(t)},
		{EntryID: work.ID, ID: shop, Key: newKey(t)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, say := range []string{"PermissionDenied", "InvalidArgument", "NotFound"} {
		if err := results[i].Err; !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), say) {
			t.Errorf("request %d: %v, want %s", i, err, say)
		}
	}
	if results[3].Err != nil {
		t.Error(results[3].Err)
	}
	if got := r.leaves(); got["issuer.refuse svid"] != 3 || got["issuer.issue workload"] != 1 {
		t.Errorf("trail: %v", got)
	}
}

func TestEnrolRefused(t *testing.T) {
	r := newRegion(t, nil)
	c, _ := r.attest()
	if _, err := c.Enrol(t.Context(), &newKey(t).PublicKey, 0, nil, 0); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("another feed key: %v", err)
	}
	if _, err := c.Enrol(t.Context(), nil, 99, nil, 0); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "probation") {
		t.Errorf("the authority's no: %v", err)
	}
	if _, err := c.Enrol(t.Context(), nil, 0, []byte{1}, 0); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("previous head of one byte: %v", err)
	}
	r.machine.name = "m2"
	c, _ = r.attest()
	if _, err := c.Enrol(t.Context(), nil, 0, nil, 0); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "name") {
		t.Errorf("a machine without an entry: %v", err)
	}
}

func TestJoinToken(t *testing.T) {
	const secret = "open sesame"
	hash := sha256.Sum256([]byte(secret))
	agent := id(fmt.Sprintf("/spire/agent/join_token/%x", hash))
	r := newRegion(t, func(c *issuer.Config) {
		c.Entries = []issuer.Entry{{SPIFFEID: n1, ParentID: agent}, {SPIFFEID: shop, ParentID: n1, Selectors: []string{"unix:uid:0"}}}
	})
	token, key := spire.NewJoinToken(secret), newKey(t)
	if s := fmt.Sprintf("%v %+v %s %#v", token, token, token, token); strings.Contains(s, secret) {
		t.Errorf("the token prints itself: %s", s)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, token, key); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("unknown token: %v", err)
	}
	r.token(secret, -time.Second)
	if _, err := spire.Attest(t.Context(), r.cfg, token, key); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("expired token: %v", err)
	}
	r.token(secret, time.Hour)
	a, err := spire.Attest(t.Context(), r.cfg, token, key)
	if err != nil || a.SVID.ID != agent || a.Reattest {
		t.Fatal(a, err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, token, newKey(t)); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("replayed token: %v", err)
	}
	lost := r.dial(a)
	if a, err = spire.Attest(t.Context(), r.cfg, token, key); err != nil {
		t.Errorf("the answer was lost, and the same key asks again: %v", err)
	}
	c := r.dial(a)
	if err := c.PostStatus(t.Context(), 1, ""); err != nil {
		t.Error(err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, token, key); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("replayed token, after its answer arrived: %v", err)
	}
	if err := lost.PostStatus(t.Context(), 1, ""); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("what the lost answer held: %v", err)
	}
	if _, err := c.Enrol(t.Context(), nil, 0, nil, 0); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("no feed key: %v", err)
	}
	feed := newKey(t)
	en, err := c.Enrol(t.Context(), &feed.PublicKey, 0, nil, 0)
	if err != nil || en.Class != "unattested" || len(en.Endorsement) != 0 {
		t.Fatal(en, err)
	}
	cert, err := epoch.Verify(en.Epoch, []*x509.Certificate{r.root.Certificate()}, east, time.Now())
	if err != nil || cert.Attested() {
		t.Error(cert, err)
	}
	node := r.entry(c, n1)
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: node.ID, ID: n1, Key: key}, {EntryID: node.ID, ID: n1, Key: newKey(t)}})
	if err != nil || results[0].Err != nil || results[1].Err == nil {
		t.Error("without a TPM, only the key of the agent SVID: ", results, err)
	}

	// Renewal in two steps: the old SVID is good until the new one was shown.
	next, err := c.Renew(t.Context(), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PostStatus(t.Context(), 1, ""); err != nil {
		t.Errorf("old SVID before the new one was shown: %v", err)
	}
	if err := r.dial(spire.Agent{SVID: next}).PostStatus(t.Context(), 1, ""); err != nil {
		t.Errorf("new SVID: %v", err)
	}
	if err := c.PostStatus(t.Context(), 1, ""); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("old SVID after that: %v", err)
	}
}

func TestOneActiveSVID(t *testing.T) {
	r := newRegion(t, nil)
	old, _ := r.attest()
	fresh, a := r.attest()
	if _, err := old.Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("the older SVID: %v", err)
	}
	if _, err := fresh.Renew(t.Context(), r.machine.key); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("renew what can attest again: %v", err)
	}
	if err := r.server.Ban(a.SVID.ID, "stolen"); err != nil {
		t.Fatal(err)
	}
	if err := fresh.PostStatus(t.Context(), 1, ""); !errors.Is(err, spire.ErrBanned) {
		t.Errorf("banned, on a live connection: %v", err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "is banned") {
		t.Errorf("banned, attesting: %v", err)
	}
	if err := r.server.Unban(a.SVID.ID, "found"); err != nil {
		t.Fatal(err)
	}
	if err := fresh.PostStatus(t.Context(), 1, ""); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("after the ban: %v", err)
	}
	r.attest()
}

func TestQuarantinedGetNothing(t *testing.T) {
	r := newRegion(t, nil)
	c, _ := r.attest()
	node := r.entry(c, n1)
	r.quarantine(n1)
	if _, err := c.Enrol(t.Context(), nil, 0, nil, 0); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "quarantined") {
		t.Errorf("enrol: %v", err)
	}
	if _, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: node.ID, ID: n1, Key: r.machine.key}}); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("SVID: %v", err)
	}
	if _, err := spire.Attest(t.Context(), r.cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("attest: %v", err)
	}
	if got := r.leaves(); got["issuer.issue epoch"] != 0 || got["issuer.issue node"] != 0 || got["issuer.refuse epoch"] != 1 || got["issuer.refuse svid"] != 1 {
		t.Errorf("trail: %v", got)
	}
}

func TestWithoutOrWithForeignCertificate(t *testing.T) {
	r, other := newRegion(t, nil), newRegion(t, nil)
	bare, err := spire.Dial(r.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	if b, err := bare.Bundle(t.Context()); err != nil || !b.Equal(r.ca.Bundle()) {
		t.Errorf("GetBundle needs no certificate: %v", err)
	}
	if _, err := bare.Entries(t.Context(), nil); !errors.Is(err, spire.ErrRefused) {
		t.Errorf("Entries without a certificate: %v", err)
	}
	_, a := other.attest() // the same names, another root
	foreign := r.dial(a)
	if _, err := foreign.Entries(t.Context(), nil); err == nil {
		t.Error("a certificate of another root was accepted")
	}
	cfg := other.cfg
	cfg.Addr = r.cfg.Addr
	if _, err := spire.Attest(t.Context(), cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrServer) {
		t.Errorf("a server of another root: %v", err)
	}
	cfg = r.cfg
	cfg.Bundles = x509bundle.NewSet()
	if _, err := spire.Attest(t.Context(), cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrServer) {
		t.Errorf("no bundle, no trust on first use: %v", err)
	}
	cfg.Addr = "127.0.0.1:1"
	if _, err := spire.Attest(t.Context(), cfg, r.machine, r.machine.key); !errors.Is(err, spire.ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestExpiredIsToldSo(t *testing.T) {
	r := newRegion(t, nil)
	_, a := r.attest()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, r.machine.key)
	if err != nil {
		t.Fatal(err)
	}
	approved, err := r.ca.Check(issuer.Request{ID: a.SVID.ID, CSR: csr, Now: time.Now().Add(-time.Hour), Lifetime: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := r.ca.Issue(approved)
	if err != nil {
		t.Fatal(err)
	}
	a.SVID.Certificates = []*x509.Certificate{cert}
	if err := r.dial(a).PostStatus(t.Context(), 1, ""); !errors.Is(err, spire.ErrMustAttest) || !strings.Contains(err.Error(), "validity") {
		t.Errorf("got %v", err)
	}
}

func TestNewNamesAllThatIsMissing(t *testing.T) {
	_, err := issuer.New(issuer.Config{})
	for _, part := range []string{"CA", "record root", "endorsements", "epochs", "store", "standing"} {
		if !errors.Is(err, issuer.ErrConfig) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not named in: %v", part, err)
		}
	}
}

// A client that connects and says nothing, or garbage, must not hold anything up.
func TestGarbage(t *testing.T) {
	r := newRegion(t, nil)
	for _, say := range []string{"", "GET / HTTP/1.0\r\n\r\n"} {
		conn, err := net.Dial("tcp", r.cfg.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, say)
	}
	r.attest()
}

// A connection remembers that its certificate verified, and nothing of standing.
func TestNextCallOfALiveConnection(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*region, spiffeid.ID) error
		want error
	}{
		{"quarantined agent", func(r *region, agent spiffeid.ID) error { r.quarantine(agent); return nil }, spire.ErrRefused},
		{"quarantined node", func(r *region, _ spiffeid.ID) error { r.quarantine(n1); return nil }, spire.ErrRefused},
		{"banned", func(r *region, agent spiffeid.ID) error { return r.server.Ban(agent, "stolen") }, spire.ErrBanned},
		{"evicted", func(r *region, agent spiffeid.ID) error { return r.server.Evict(agent, "lost") }, spire.ErrMustAttest},
		{"attested anew elsewhere", func(r *region, _ spiffeid.ID) error { r.attest(); return nil }, spire.ErrMustAttest},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegion(t, nil)
			client, a := r.attest()
			work := r.entry(client, shop)
			calls := map[string]func() error{
				"X.509": func() error {
					_, err := client.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: work.ID, ID: shop, Key: newKey(t)}})
					return err
				},
				"JWT":     func() error { _, err := client.NewJWTSVID(t.Context(), work.ID, shop, []string{"a"}); return err },
				"entries": func() error { _, err := client.Entries(t.Context(), nil); return err },
				"enrol":   func() error { _, err := client.Enrol(t.Context(), nil, 0, nil, 0); return err },
			}
			for name, call := range calls {
				for range 2 { // the second is remembered
					if err := call(); err != nil {
						t.Fatalf("%s before: %v", name, err)
					}
				}
			}
			if err := c.do(r, a.SVID.ID); err != nil {
				t.Fatal(err)
			}
			for name, call := range calls {
				if err := call(); !errors.Is(err, c.want) {
					t.Errorf("%s after: %v, want %v", name, err, c.want)
				}
			}
		})
	}
	t.Run("entry taken away", func(t *testing.T) {
		r := newRegion(t, nil)
		client, _ := r.attest()
		work := r.entry(client, shop)
		if err := r.server.SetEntries([]issuer.Entry{{SPIFFEID: n1, ParentID: r.machine.id()}}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.NewJWTSVID(t.Context(), work.ID, shop, []string{"a"}); !errors.Is(err, spire.ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
}

// TestTrustRecordsForAnybody: who knows no root of the region gets the records.
func TestTrustRecordsForAnybody(t *testing.T) {
	r := newRegion(t, nil)
	records, err := spire.TrustRecords(t.Context(), r.cfg.Addr)
	if err != nil || len(records) != 1 || string(records[0]) != "\x01" {
		t.Errorf("%v, %v", records, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := spire.TrustRecords(t.Context(), nobody); !errors.Is(err, spire.ErrUnreachable) {
		t.Errorf("nobody answers: %v", err)
	}
}
