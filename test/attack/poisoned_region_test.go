package attack

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

const protoSummary = "summary/1"

// Frames of a session between regions, see package summary.
const (
	farSummary   = 1
	farStatement = 3
)

// gateway is the honest node that speaks with other regions, wired as package app does.
type gateway struct {
	*node
	summaries *summary.Tracker
	book      *authority.Book // what the authority of the other region says
	desk      *travel.Desk
	engine    *policy.Engine

	mu    sync.Mutex // guards heard
	heard []error    // what became of statements
}

// gate makes the first node of the fleet the region's gateway.
func (f *fleet) gate(abroad *authority.Key) *gateway {
	f.t.Helper()
	t, n := f.t, f.nodes[0]
	g := &gateway{node: n, engine: policy.New(policy.Config{})}
	if err := g.engine.Activate(builtin.Global()); err != nil {
		t.Fatal(err)
	}
	keysOf := func(key *ecdsa.PublicKey) authority.Keys {
		return func(authority.Level) authority.Signers { return authority.Signers{Keys: []*ecdsa.PublicKey{key}} }
	}
	f.revocation = func(raw []byte) (quarantine.Revocation, error) {
		return authority.OpenRevocation(raw, f.abroad.td, keysOf(abroad.Public()))
	}
	g.book = authority.NewBook(f.abroad.td, keysOf(abroad.Public()))
	global := newKey(t)
	g.desk = travel.New(travel.Config{
		Store: n.store, Global: []*ecdsa.PublicKey{&global.PublicKey}, Wants: func(string, string) bool { return true },
		Judge: bundle.NewBook(n.store).Judge, Conflict: func(*bundle.Verified) error { return nil },
		Take: func(*bundle.Verified) (error, error) { t.Error("a policy of another region is taken"); return nil, nil },
		Held: func([32]byte) []byte { return nil }, Peers: func(*bundle.Record) []spiffeid.ID { return nil },
	})
	keys := func(der []byte) (summary.Key, error) {
		k, err := f.keys(der)
		if err == nil && k.Class != "gateway" {
			err = fmt.Errorf("%w: %s is no gateway", summary.ErrSigner, k.Origin)
		}
		return summary.Key{ID: k.Origin, Epoch: k.Epoch, Public: k.Key}, err
	}
	g.summaries = summary.NewTracker(keys)
	gw, err := summary.New(summary.Config{
		Self: n.id, Store: n.store, Keys: keys, Tracker: g.summaries,
		Signer:  func() (crypto.Signer, []byte) { return n.self.Signer, n.self.Cert },
		Content: func() summary.Content { return summary.Content{Region: "east"} },
		OnStatement: func(_ spiffeid.ID, raw []byte) error {
			err := g.statement(raw)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.heard = append(g.heard, err)
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.gateway.Store(gw)
	return g
}

// statement is what package app does with what another region's authority is said to have signed.
func (g *gateway) statement(raw []byte) error {
	s, _, err := g.book.Add(raw)
	if err == nil && s.Kind == authority.KindRevocation {
		_, _, err = g.standing.AddRevocation(time.Now(), raw)
		return err
	}
	if err == nil {
		return nil
	}
	if r, _ := bundle.ReadRecord(raw); r.Level == policy.Global {
		return g.desk.Offer(raw, time.Now())
	}
	_, _, evidence := g.standing.AddEvidence(time.Now(), raw, spiffeid.ID{})
	return errors.Join(err, evidence)
}

// shape is all that may not change: what is known, what is decided by, who is shut out, and who
// talks to whom since when.
func (f *fleet) shape(g *gateway) []byte {
	f.t.Helper()
	out := []byte("policy " + g.engine.Revision() + "\n")
	for _, n := range f.nodes {
		heads, root := n.frontier()
		out = fmt.Appendf(out, "%s has %x: %v\n", n.id, root, heads) // fmt sorts maps
		entries, _ := n.List("spiffe://" + f.home.td.Name())
		for _, e := range entries {
			out = fmt.Appendf(out, "%s shows %s = %x, suspect %t, seq %d\n", n.id, e.Key, e.Value, e.Suspect, e.Seq)
		}
		for _, peer := range n.link.Peers() {
			if peer.ID.TrustDomain() == f.home.td {
				out = fmt.Appendf(out, "%s link %s since %s\n", n.id, peer.ID, peer.Since)
			}
		}
		used, err := n.Links(n.ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, l := range used {
			out = fmt.Appendf(out, "%s session %s %+v\n", n.id, l.Peer, l.Terms)
		}
		for _, c := range n.standing.Cases(time.Now()) {
			if c.Accused.TrustDomain() == f.home.td {
				out = fmt.Appendf(out, "%s accuses %s: %+v\n", n.id, c.Accused, c.Status)
			}
		}
	}
	return out
}

// Every node of a region lies in every way, under its true keys and those of its gateways and of its
// authority. In the other region nothing changes, to the byte: what is known, the policy, who is shut
// out, and who talks to whom. That so many of its nodes are quarantined there crosses as news.
func TestPoisonedRegion(t *testing.T) {
	attackedInVirtualTime(t, 4, func(t *testing.T, f *fleet) {
		key, err := authority.OpenKey(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		g := f.gate(key)
		time.Sleep(2 * time.Second)
		before := f.shape(g)
		var liars []*hostile
		for i := range 6 {
			class := "node"
			if i < 2 {
				class = "gateway"
			}
			h := f.client(f.abroad, fmt.Sprint("w", i))
			h.self = f.abroad.identityOf(t, class, h.id, newKey(t), 1, time.Hour)
			liars = append(liars, h)
		}
		for _, h := range liars {
			f.poison(g, h, key)
		}
		time.Sleep(5 * time.Second)
		if after := f.shape(g); string(after) != string(before) {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		news, ok := g.summaries.Region(f.abroad.td)
		if !ok || news.Summary.Content.Nodes["quarantined"] != 6 {
			t.Errorf("what crosses as news: %+v, %t", news, ok)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		foreign := 0
		for _, err := range g.heard {
			if err == nil {
				t.Error("a statement is taken")
			}
			if errors.Is(err, quarantine.ErrForeign) {
				foreign++
			}
		}
		if foreign != 2*len(liars) || len(g.heard) != 7*len(liars) {
			t.Errorf("of %d statements %d are refused because they are about another region: %v", len(g.heard), foreign, g.heard)
		}
		f.unharmed()
	})
}

// poison has one node of the other region say all that is invalid to the gateway, and some of it to
// all others.
func (f *fleet) poison(g *gateway, h *hostile, key *authority.Key) {
	t, victim := f.t, f.nodes[1]
	t.Helper()
	for _, n := range f.nodes[1:] {
		if _, err := h.try(n, nil); err == nil {
			t.Errorf("%s takes a link of %s", n.id, h.id)
		}
	}
	wire := h.link(g.node)
	far := wire.stream(protoSummary)
	say := func(kind byte, body []byte) { _, _ = far.Write(farFrame(kind, body)) }

	// Two summaries of one number: the first is news, the second contradicts it.
	for _, nodes := range []int{6, 60} {
		b, err := summary.Build(h.self.Signer, h.self.Cert, h.id, 1, 1, time.Now(), summary.Content{Region: "west", Nodes: map[string]int{"quarantined": nodes}})
		if err != nil {
			t.Fatal(err)
		}
		say(farSummary, b)
	}
	// What its authority signs: about a node of its own, and about one of the other region.
	for _, accused := range []spiffeid.ID{h.id, victim.id} {
		body, err := quarantine.Revocation{Accused: accused, At: time.Now(), Reason: "poison"}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for _, td := range []spiffeid.TrustDomain{f.abroad.td, f.home.td} {
			say(farStatement, revocationBy(t, key, td, accused, body))
		}
	}
	// A policy for all regions that denies everything, which no global key signed.
	content, err := bundle.Content{Modules: map[string]string{"deny.rego": "package bailiwick\n\nimport rego.v1\n"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := bundle.Sign(key.Signer(), bundle.Record{
		Level: policy.Global, Scope: bundle.ScopeMesh, Version: 99, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		Author: h.id.String(), Change: "poison", Requires: bundle.Features,
		NotBefore: time.Now().Unix(), NotAfter: time.Now().Add(time.Hour).Unix(),
	}, content)
	if err != nil {
		t.Fatal(err)
	}
	say(farStatement, rec)
	// A proof that it lied itself, and one made up against a node of the other region.
	one, two := h.sign(feed.Header{Seq: 1, HLC: now()}, op(h.key("a"), "1")), h.sign(feed.Header{Seq: 1, HLC: now() + 1}, op(h.key("a"), "2"))
	proof, _ := fork(t, f, h, one, two)
	say(farStatement, proof)
	forged := func(value string) feed.Record {
		return signAs(t, h.self, victim.id, 1, feed.Header{Seq: 1, HLC: now()}, op(victim.key("a"), value))
	}
	a, b := forged("1"), forged("2")
	if x, y := a.ID(), b.ID(); string(x[:]) > string(y[:]) {
		a, b = b, a
	}
	say(farStatement, encode(t, struct {
		Form  uint8  `cbor:"1,keyasint"`
		Cert  []byte `cbor:"2,keyasint"`
		First []byte `cbor:"3,keyasint"`
		Other []byte `cbor:"4,keyasint"`
	}{1, victim.self.Cert, a.Statement(), b.Statement()}))

	// Its two stories, forged records and garbage, as if it were of the region.
	s := wire.speak(nil)
	s.send(frameCert, h.self.Cert)
	s.record(one, two, forged("3"))
	s.send(frameRecord, []byte("garbage"))
	time.Sleep(time.Second)
	say(250, []byte("garbage"))
}

func farFrame(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body))), body...)
}

// revocationBy is a revocation in a region's name, by whatever key: see package authority.
func revocationBy(t *testing.T, key *authority.Key, td spiffeid.TrustDomain, accused spiffeid.ID, body []byte) []byte {
	t.Helper()
	payload := encode(t, struct {
		Kind    string   `cbor:"1,keyasint"`
		Level   string   `cbor:"2,keyasint"`
		Name    string   `cbor:"3,keyasint"`
		Version uint64   `cbor:"4,keyasint"`
		HLC     uint64   `cbor:"5,keyasint"`
		Origin  string   `cbor:"6,keyasint"`
		Parent  [32]byte `cbor:"7,keyasint"`
		Body    []byte   `cbor:"8,keyasint"`
	}{"revocation", "regional", accused.String(), 1, uint64(now()), td.IDString() + "/node/authority", [32]byte{}, body})
	raw, err := statement.Sign(key.Signer(), statement.Type{Name: "revocation", Version: 1}, td.Name(), payload)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
