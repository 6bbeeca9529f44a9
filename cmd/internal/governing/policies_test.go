package governing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/schema"
)

// A policy that cannot be used changes nothing: neither what is in force nor what is
// kept, so that the same version, mended, is taken.
func TestABadPolicyChangesNothing(t *testing.T) {
	dir := t.TempDir()
	st := openStore(t, filepath.Join(dir, "state.db"))
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	global, region := newKey(), newKey()
	c := config.Config{Node: self}
	c.Policy.Global, c.Policy.Region = config.Path(filepath.Join(dir, "global.policy")), config.Path(filepath.Join(dir, "region.policy"))
	td := c.Node.TrustDomain()
	valid := provision.ValidFor(time.Hour)
	delegation, err := provision.Delegate(global, trust.Record{TrustDomain: td, PolicyKey: &region.PublicKey}, builtin.Regional("east").Delegation, valid)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(l policy.Level, version uint64, src string) {
		t.Helper()
		content := bundle.Content{Modules: l.Modules, Data: l.Data}
		if src != "" {
			content.Schemas = map[string]string{"schemas/order.json": src}
		}
		packed, err := content.Encode()
		if err != nil {
			t.Fatal(err)
		}
		p := provision.Policy{Level: l.Name, Scope: bundle.ScopeMesh, Version: version, Author: "spiffe://east.dev.example/operator", Content: packed}
		key, path := global, c.Policy.Global
		if l.Name == policy.Regional {
			p.Scope, p.Delegations, key, path = td.Name(), [][]byte{delegation}, region, c.Policy.Region
		}
		b, err := p.Sign(key, valid)
		if err == nil {
			err = provision.WriteFile(string(path), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	engine := policy.New(policy.Config{})
	p := New(c, engine, st, []*ecdsa.PublicKey{&global.PublicKey}, decision.New(decision.Config{Store: st}).Change, slog.New(slog.DiscardHandler))
	book := p.Book()
	const order = `{"kind": "x-order", "version": 1, "schema": {"type": "object"}}`
	levels := builtin.Dev("east")
	sign(levels[0], 1, "")
	sign(levels[1], 1, order)
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	first := engine.Revision()

	sign(levels[1], 2, `{"kind": "x-order", "version": 2, "schema": {"$ref": "https://example.com/"}}`)
	if err := p.Reload(); !errors.Is(err, schema.ErrSchema) {
		t.Errorf("a broken schema: %v", err)
	}
	held, err := book.Held(policy.Regional, td.Name(), []*ecdsa.PublicKey{&global.PublicKey})
	if err != nil || len(held) != 1 || held[0].Record.Version != 1 || engine.Revision() != first {
		t.Errorf("kept %d versions, %v; in force %s", len(held), err, engine.Revision())
	}
	if err := engine.Fits("x-order", "n", time.Now(), []byte("1")).Refused(); !errors.Is(err, schema.ErrValue) {
		t.Errorf("the schema in force is gone: %v", err)
	}

	sign(levels[1], 2, "")
	if err := p.Reload(); err != nil || engine.Revision() == first || len(engine.Schemas()) != 0 {
		t.Errorf("the same version, mended: %v", err)
	}
	second := engine.Revision()
	sign(levels[1], 1, order)
	if err := p.Reload(); err != nil || engine.Revision() != second {
		t.Errorf("an old version: %v; in force %s", err, engine.Revision())
	}
	if refused, err := p.Take(held[0], true); refused != nil || err != nil || engine.Revision() != second {
		t.Errorf("an old version, handed in: %v, %v; in force %s", refused, err, engine.Revision())
	}

	// A node that starts goes on with the newest it holds, whatever the files say; and with the
	// one before where that does not compile here.
	again := policy.New(policy.Config{})
	if err := New(c, again, st, p.global, p.change, p.log).Open(); err != nil || again.Revision() != second {
		t.Errorf("after a restart: %v; in force %s, want %s", err, again.Revision(), second)
	}
	sign(levels[1], 3, `{"kind": "x-order", "version": 3, "schema": {"$ref": "https://example.com/"}}`)
	bad, err := p.file(p.slots[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := book.Keep(bad, false, time.Now()); err != nil { // as a version that compiles more would
		t.Fatal(err)
	}
	again = policy.New(policy.Config{})
	if err := New(c, again, st, p.global, p.change, p.log).Open(); err != nil || again.Revision() != second {
		t.Errorf("with a policy that does not compile here: %v; in force %s, want %s", err, again.Revision(), second)
	}
}
