package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

var (
	now = time.Unix(1_790_000_000, 0)
	day = int64(24 * 60 * 60)

	globalKey, regionKey, siteKey, strangerKey = newKey(), newKey(), newKey(), newKey()
	globals                                    = []*ecdsa.PublicKey{&newKey().PublicKey, &globalKey.PublicKey}
)

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func pkix(k *ecdsa.PrivateKey) []byte {
	b, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		panic(err)
	}
	return b
}

const region, site = "east.dev.example", "east.dev.example/zone/site-17"

func content(t testing.TB) []byte {
	t.Helper()
	b, err := Encode(map[string]string{"connect.rego": "package x\n"}, map[string]any{"services": map[string]any{"web": []any{"a<b"}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func regional(edit func(*Delegation)) Delegation {
	d := Delegation{Level: policy.Regional, Scope: region, Key: pkix(regionKey), NotBefore: now.Unix() - day, NotAfter: now.Unix() + 90*day,
		Kinds: []policy.Kind{policy.Connect, policy.StateAdmit}, Regions: []string{"east"}, Services: []string{"pay*", "web"}}
	if edit != nil {
		edit(&d)
	}
	return d
}

func local(edit func(*Delegation)) Delegation {
	d := Delegation{Level: policy.Local, Scope: site, Key: pkix(siteKey), NotBefore: now.Unix() - day, NotAfter: now.Unix() + 30*day,
		Kinds: []policy.Kind{policy.Connect}, Regions: []string{"east"}, Services: []string{"payments"}}
	if edit != nil {
		edit(&d)
	}
	return d
}

func certify(t testing.TB, k *ecdsa.PrivateKey, d Delegation) []byte {
	t.Helper()
	b, err := Certify(k, d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func record(level, scope string, version uint64, delegations ...[]byte) Record {
	return Record{Level: level, Scope: scope, Version: version, Mode: Enforce, Requires: []string{"rego-v2"}, StaleMode: StaleContinue,
		NotBefore: now.Unix() - day, NotAfter: now.Unix() + 60*day, Author: "spiffe://east.dev.example/node/east-n1", Delegations: delegations}
}

func sign(t testing.TB, k *ecdsa.PrivateKey, r Record) []byte {
	t.Helper()
	b, err := Sign(k, r, content(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// forge signs what Sign would refuse.
func forge(t testing.TB, k *ecdsa.PrivateKey, r Record) []byte {
	t.Helper()
	c := content(t)
	r.Digest, r.Size = statement.Digest(c), uint64(len(c))
	payload, err := statement.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := statement.Sign(k, recordType, domainOf(r.Scope), payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVerify(t *testing.T) {
	reg := certify(t, globalKey, regional(nil))
	loc := certify(t, regionKey, local(nil))
	edited := func(r Record, edit func(*Record)) Record { edit(&r); return r }
	tests := []struct {
		name string
		b    []byte
		err  error
	}{
		{"global", sign(t, globalKey, record(policy.Global, ScopeMesh, 1)), nil},
		{"regional", sign(t, regionKey, record(policy.Regional, region, 1, reg)), nil},
		{"local", sign(t, siteKey, record(policy.Local, site, 1, reg, loc)), nil},
		{"global by a stranger", sign(t, strangerKey, record(policy.Global, ScopeMesh, 1)), ErrSignature},
		{"regional by the global key itself", sign(t, globalKey, record(policy.Regional, region, 1, reg)), ErrSignature},
		{"delegation by a stranger", sign(t, regionKey, record(policy.Regional, region, 1, certify(t, strangerKey, regional(nil)))), ErrSignature},
		{"regional without delegation", forge(t, regionKey, record(policy.Regional, region, 1)), ErrDelegation},
		{"global by a region", forge(t, regionKey, record(policy.Global, ScopeMesh, 1, reg)), ErrDelegation},
		{"delegation of another region", sign(t, regionKey, record(policy.Regional, "west.dev.example", 1, reg)), ErrDelegation},
		{"two regional delegations", forge(t, siteKey, record(policy.Local, site, 1, reg, reg)), ErrSignature},
		{"local under another region", sign(t, siteKey, record(policy.Local, "west.dev.example/zone/a", 1, reg,
			certify(t, regionKey, local(func(d *Delegation) { d.Scope = "west.dev.example/zone/a" })))), ErrDelegation},
		{"local beyond the kinds", sign(t, siteKey, record(policy.Local, site, 1, reg,
			certify(t, regionKey, local(func(d *Delegation) { d.Kinds = []policy.Kind{policy.AttestNode} })))), ErrDelegation},
		{"local beyond the regions", sign(t, siteKey, record(policy.Local, site, 1, reg,
			certify(t, regionKey, local(func(d *Delegation) { d.Regions = []string{"west"} })))), ErrDelegation},
		{"local beyond the services", sign(t, siteKey, record(policy.Local, site, 1, reg,
			certify(t, regionKey, local(func(d *Delegation) { d.Services = []string{"p*"} })))), ErrDelegation},
		{"local with all services", sign(t, siteKey, record(policy.Local, site, 1, reg,
			certify(t, regionKey, local(func(d *Delegation) { d.Services = nil })))), ErrDelegation},
		{"expired record", sign(t, globalKey, edited(record(policy.Global, ScopeMesh, 1), func(r *Record) { r.NotAfter = now.Unix() - 1 })), ErrExpired},
		{"record of tomorrow", sign(t, globalKey, edited(record(policy.Global, ScopeMesh, 1), func(r *Record) { r.NotBefore = now.Unix() + 1 })), ErrExpired},
		{"expired delegation", sign(t, regionKey, record(policy.Regional, region, 1,
			certify(t, globalKey, regional(func(d *Delegation) { d.NotAfter = now.Unix() - 1 })))), ErrExpired},
		{"unknown feature", sign(t, globalKey, edited(record(policy.Global, ScopeMesh, 1), func(r *Record) { r.Requires = []string{"shadow-9"} })), ErrFeature},
		{"below the floor", sign(t, regionKey, record(policy.Regional, region, 4,
			certify(t, globalKey, regional(func(d *Delegation) { d.Floor = 5 })))), ErrRollback},
		{"unknown mode", forge(t, globalKey, edited(record(policy.Global, ScopeMesh, 1), func(r *Record) { r.Mode = "maybe" })), ErrMalformed},
		{"version 0", forge(t, globalKey, record(policy.Global, ScopeMesh, 0)), ErrMalformed},
		{"global with a region's scope", forge(t, globalKey, record(policy.Global, region, 1)), ErrMalformed},
		{"regional with the mesh's scope", forge(t, regionKey, record(policy.Regional, ScopeMesh, 1, reg)), ErrMalformed},
		{"no author", forge(t, globalKey, edited(record(policy.Global, ScopeMesh, 1), func(r *Record) { r.Author = "me" })), ErrMalformed},
		{"rubbish", []byte("rubbish"), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Verify(tt.b, content(t), globals, now)
			if !errors.Is(err, tt.err) || (err == nil) != (v != nil) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
		})
	}
	b := sign(t, globalKey, record(policy.Global, ScopeMesh, 1))
	if _, err := Verify(b, append(content(t), 0), globals, now); !errors.Is(err, ErrDigest) {
		t.Errorf("other content: %v", err)
	}
	if _, err := Verify(b, content(t), nil, now); !errors.Is(err, ErrSignature) {
		t.Errorf("no global key: %v", err)
	}
}

func TestVerifiedLevel(t *testing.T) {
	reg := certify(t, globalKey, regional(func(d *Delegation) { d.NotAfter = now.Unix() + 7*day }))
	v, err := Verify(sign(t, regionKey, record(policy.Regional, region, 12, reg)), content(t), globals, now)
	if err != nil {
		t.Fatal(err)
	}
	l := v.Level()
	if l.Name != policy.Regional || l.Revision != "12" || l.NotAfter.Unix() != now.Unix()+7*day || l.Delegation.All ||
		len(l.Delegation.Services) != 2 || l.Modules["connect.rego"] == "" || l.Data["services"] == nil {
		t.Errorf("%+v", l)
	}
	v, err = Verify(sign(t, globalKey, record(policy.Global, ScopeMesh, 1)), content(t), globals, now)
	if err != nil || !v.Level().Delegation.All {
		t.Errorf("%+v %v", v, err)
	}
}

func TestSignRefuses(t *testing.T) {
	if _, err := Sign(globalKey, record(policy.Global, ScopeMesh, 1), []byte("rubbish")); !errors.Is(err, ErrContent) {
		t.Errorf("rubbish: %v", err)
	}
	for name, edit := range map[string]func(*Delegation){
		"too long":  func(d *Delegation) { d.NotAfter = d.NotBefore + int64(MaxDelegation/time.Second) + 1 },
		"no key":    func(d *Delegation) { d.Key = nil },
		"bad scope": func(d *Delegation) { d.Scope = "EAST" },
	} {
		if _, err := Certify(globalKey, regional(edit)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Certify(globalKey, regional(func(d *Delegation) { d.Level, d.Scope = policy.Global, ScopeMesh })); !errors.Is(err, ErrDelegation) {
		t.Errorf("global: %v", err)
	}
}

func verified(t testing.TB, version uint64, edit func(*Record)) *Verified {
	t.Helper()
	r := record(policy.Global, ScopeMesh, version)
	if edit != nil {
		edit(&r)
	}
	v, err := Verify(sign(t, globalKey, r), content(t), globals, now)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { st.Close() }()
	b := NewBook(st)
	first := verified(t, 5000, nil)
	for _, step := range []struct {
		v   *Verified
		err error
	}{
		{first, nil},
		{first, nil}, // again: no change
		{verified(t, 5000, func(r *Record) { r.Change = "another" }), ErrConflict},
		{verified(t, 4999, nil), ErrRollback},
		{verified(t, 6001, nil), ErrJump},
		{verified(t, 6000, nil), nil},
		{verified(t, 6001, nil), nil},
		{first, ErrRollback},
	} {
		if err := b.Keep(step.v, now); !errors.Is(err, step.err) {
			t.Errorf("version %d: got %v, want %v", step.v.Record.Version, err, step.err)
		}
	}
	entries, err := st.Outbox(0, 100)
	if err != nil || len(entries) != 3 || entries[0].Kind != "policy.activate" {
		t.Errorf("%d leaves, %v", len(entries), err)
	}
	st.Close()
	if st, err = store.Open(path); err != nil {
		t.Fatal(err)
	}
	held, err := NewBook(st).Held(policy.Global, ScopeMesh, globals)
	if err != nil || len(held) != 2 || held[0].Record.Version != 6001 || held[1].Record.Version != 6000 {
		t.Fatalf("%d held, %v", len(held), err)
	}
	if !bytes.Equal(held[0].Content(), content(t)) {
		t.Error("not the bytes that were signed")
	}
	if _, err := NewBook(st).Held(policy.Global, ScopeMesh, []*ecdsa.PublicKey{&strangerKey.PublicKey}); !errors.Is(err, ErrSignature) {
		t.Errorf("after the global key changed: %v", err)
	}
	if none, err := NewBook(st).Held(policy.Regional, region, globals); err != nil || len(none) != 0 {
		t.Errorf("%d, %v", len(none), err)
	}
}

// Scopes do not share a floor, and the level above can lift one over a gap.
func TestBookScopesAndFloor(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	b := NewBook(st)
	put := func(version, floor uint64) error {
		reg := certify(t, globalKey, regional(func(d *Delegation) { d.Floor = floor }))
		v, err := Verify(sign(t, regionKey, record(policy.Regional, region, version, reg)), content(t), globals, now)
		if err != nil {
			return err
		}
		return b.Keep(v, now)
	}
	if err := errors.Join(b.Keep(verified(t, 10, nil), now), put(1, 0), put(2, 0), put(9000, 8500)); err != nil {
		t.Error(err)
	}
	if err := put(20000, 8500); !errors.Is(err, ErrJump) {
		t.Errorf("got %v", err)
	}
	if held, _ := b.Held(policy.Global, ScopeMesh, globals); len(held) != 1 {
		t.Errorf("%d global records", len(held))
	}
}

func TestBookFaults(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		path := filepath.Join(t.TempDir(), "db")
		st, err := store.OpenFaulty(path, func(op int) store.Fault {
			if op == 2 {
				return fault
			}
			return store.NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		b := NewBook(st)
		if err := b.Keep(verified(t, 1, nil), now); err != nil {
			t.Fatal(err)
		}
		if err := b.Keep(verified(t, 2, nil), now); err == nil {
			t.Error("a lost commit was not reported")
		}
		st.Close()
		if st, err = store.Open(path); err != nil {
			t.Fatal(err)
		}
		held, err := NewBook(st).Held(policy.Global, ScopeMesh, globals)
		leaves, _ := st.Outbox(0, 10)
		if err != nil || len(held) != len(leaves) {
			t.Errorf("%d held, %d leaves, %v", len(held), len(leaves), err)
		}
		st.Close()
	}
}

func FuzzVerify(f *testing.F) {
	reg := certify(f, globalKey, regional(nil))
	f.Add(sign(f, regionKey, record(policy.Regional, region, 1, reg)))
	f.Add(sign(f, globalKey, record(policy.Global, ScopeMesh, 1)))
	c := content(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Verify(b, c, globals, now)
		if (err == nil) != (v != nil) {
			t.Fatal("neither verified nor refused")
		}
		if v != nil && !bytes.Equal(v.Statement(), b) {
			t.Fatal("not the bytes received")
		}
	})
}
