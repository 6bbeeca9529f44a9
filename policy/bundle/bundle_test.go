package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
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
	b, err := Content{
		Modules: map[string]string{"connect.rego": "package x\n"}, Data: map[string]any{"services": map[string]any{"web": []any{"a<b"}}},
		Schemas: map[string]string{"schemas/a.json": "{}"},
	}.Encode()
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
		if err := b.Keep(step.v, false, now); !errors.Is(err, step.err) {
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
	if !bytes.Equal(held[0].Packed(), content(t)) {
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
		return b.Keep(v, false, now)
	}
	if err := errors.Join(b.Keep(verified(t, 10, nil), false, now), put(1, 0), put(2, 0), put(9000, 8500)); err != nil {
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
		if err := b.Keep(verified(t, 1, nil), false, now); err != nil {
			t.Fatal(err)
		}
		if err := b.Keep(verified(t, 2, nil), false, now); err == nil {
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

// A record in shadow neither pushes an enforced one out of the book nor the other way round, and
// all share one floor. Who was handed a record keeps passing the scope on.
func TestBookKeepsShadowsApart(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	b := NewBook(st)
	shadow := func(r *Record) { r.Mode = Shadow }
	for version, edit := range []func(*Record){nil, nil, shadow, shadow, nil} {
		if err := b.Keep(verified(t, uint64(version+1), edit), version == 0, now); err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.List()
	if err != nil || len(all) != 3 || all[0].Record.Version != 5 || all[1].Record.Version != 4 || all[1].Record.Mode != Shadow || all[2].Record.Version != 2 {
		t.Fatalf("held %+v, %v", all, err)
	}
	if !all[0].Handed {
		t.Error("a newer version of what was handed in is not passed on")
	}
	if c, err := b.Content(policy.Global, ScopeMesh, 4); err != nil || !bytes.Equal(c, content(t)) {
		t.Errorf("content of version 4: %d bytes, %v", len(c), err)
	}
	for _, tt := range []struct {
		v    *Verified
		news bool
		err  error
	}{
		{verified(t, 5, nil), false, nil},
		{verified(t, 3, shadow), false, ErrRollback},
		{verified(t, 6, shadow), true, nil},
	} {
		if news, err := b.Judge(tt.v); news != tt.news || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, %v", &tt.v.Record, news, err)
		}
	}
}

func TestChunks(t *testing.T) {
	whole := bytes.Repeat([]byte("policy "), 3*ChunkSize/7)
	list := ChunkList(whole)
	r := Record{Size: uint64(len(whole)), Chunks: ChunksDigest(list)}
	if err := r.CheckList(list); err != nil || r.Count() != 3 {
		t.Errorf("%d chunks, %v", r.Count(), err)
	}
	for i := range 3 {
		chunk := whole[i*ChunkSize : min((i+1)*ChunkSize, len(whole))]
		if err := r.CheckChunk(list, i, chunk); err != nil {
			t.Error(err)
		}
		for _, bad := range [][]byte{nil, chunk[1:], append(bytes.Clone(chunk[1:]), 'x'), append(bytes.Clone(chunk), 0)} {
			if err := r.CheckChunk(list, i, bad); !errors.Is(err, ErrDigest) {
				t.Errorf("chunk %d of %d bytes: %v", i, len(bad), err)
			}
		}
	}
	for _, bad := range [][]byte{nil, list[1:], append(bytes.Clone(list), 0), bytes.Repeat([]byte{0}, len(list))} {
		if err := r.CheckList(bad); !errors.Is(err, ErrDigest) {
			t.Errorf("a list of %d bytes: %v", len(bad), err)
		}
	}
	one := []byte("x")
	r = Record{Size: 1, Chunks: ChunksDigest(ChunkList(one))}
	if err := r.CheckChunk(ChunkList(one), 0, one); err != nil {
		t.Error(err)
	}
}

// A rollout is signed with the rest, is checked, and is never obeyed by halves: who does not know
// plans refuses the record.
func TestRollout(t *testing.T) {
	r := record(policy.Global, ScopeMesh, 3)
	plan := &rollout.Plan{Rings: []rollout.Ring{{Name: "canary", Zones: []string{"depot"}, Percent: 20}}, Soak: 600, Limit: rollout.Limits{DeniedPercent: 2}}
	r.Rollout, r.Requires = plan, Features
	packed := content(t)
	signed, err := Sign(globalKey, r, packed)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Verify(signed, packed, globals, now)
	if err != nil || !reflect.DeepEqual(v.Record.Rollout, plan) {
		t.Errorf("%+v, %v", v.Record.Rollout, err)
	}
	for name, c := range map[string]struct {
		change func(*Record)
		want   error
	}{
		"without the feature": {func(r *Record) { r.Requires = nil }, ErrMalformed},
		"without rings":       {func(r *Record) { r.Rollout = &rollout.Plan{Soak: 1} }, rollout.ErrPlan},
	} {
		bad := r
		c.change(&bad)
		if _, err := Sign(globalKey, bad, packed); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is pinned stays beyond the number of records that are kept.
func TestBookKeepsWhatIsPinned(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	b := NewBook(st)
	var pinned [32]byte
	b.Pin(func(name [32]byte) bool { return name == pinned })
	for n := uint64(1); n < 6; n++ {
		v := verified(t, n, nil)
		if n == 2 {
			pinned = v.Name
		}
		if err := b.Keep(v, false, now); err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.List()
	if err != nil || len(all) != 3 || all[0].Record.Version != 5 || all[2].Record.Version != 2 {
		t.Errorf("%+v, %v", all, err)
	}
}

// What is held and was never in force, or is in shadow, is no floor for an older record that is enforced:
// it is still to come to a node that was away. What was in force is one, for records in shadow too.
func TestBookTakesWhatWasOvertaken(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	b, staged := NewBook(st), map[[32]byte]bool{}
	b.Stage(func() map[[32]byte]bool { return staged })
	b.Pin(func([32]byte) bool { return true })
	keep := func(version uint64, edit func(*Record)) error {
		v := verified(t, version, edit)
		news, judged := b.Judge(v)
		err := b.Keep(v, false, now)
		if news != (err == nil) || fmt.Sprint(err) != fmt.Sprint(judged) {
			t.Errorf("version %d: judged %v, %v; kept: %v", version, news, judged, err)
		}
		return err
	}
	shadow := func(r *Record) { r.Mode = Shadow }
	if err := errors.Join(keep(35, nil), keep(37, nil), keep(39, shadow)); err != nil {
		t.Fatal(err)
	}
	if err := keep(36, nil); !errors.Is(err, ErrRollback) {
		t.Errorf("under one that is in force: %v", err)
	}
	staged[verified(t, 37, nil).Name] = true
	for _, c := range []struct {
		version uint64
		edit    func(*Record)
		want    error
	}{{34, nil, ErrRollback}, {36, shadow, ErrRollback}, {36, nil, nil}, {38, nil, nil}, {35 + MaxJump + 4, nil, ErrJump}} {
		if err := keep(c.version, c.edit); !errors.Is(err, c.want) {
			t.Errorf("version %d: %v, want %v", c.version, err, c.want)
		}
	}
	if all, err := b.List(); err != nil || len(all) != 5 {
		t.Errorf("%d held, %v", len(all), err)
	}
}

// Whatever order they come in, all nodes hold the same of several records of one version, and know of the
// others until a newer version ends it; a restart changes nothing of that.
func TestConflictsConverge(t *testing.T) {
	three := []*Verified{
		verified(t, 37, nil),
		verified(t, 37, func(r *Record) { r.Change = "signed again" }),
		verified(t, 37, func(r *Record) { r.Change = "and again" }),
	}
	before, after := verified(t, 36, nil), verified(t, 38, nil)
	holds := slices.MinFunc(three, func(a, b *Verified) int { return bytes.Compare(a.Name[:], b.Name[:]) })
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		path := filepath.Join(t.TempDir(), "db")
		st, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b := NewBook(st)
		take := func(v *Verified, handed bool) {
			t.Helper()
			err := b.Keep(v, handed, now)
			if errors.Is(err, ErrConflict) {
				err = b.Dispute(v)
			}
			if err != nil && !errors.Is(err, ErrRollback) {
				t.Fatal(err)
			}
		}
		take(before, false)
		for i, n := range append(order, order...) { // each comes twice
			take(three[n], i == 0)
		}
		take(before, false)
		st.Close()
		if st, err = store.Open(path); err != nil {
			t.Fatal(err)
		}
		b = NewBook(st)
		all, err := b.List()
		if err != nil || len(all) != 2 || all[0].Name != holds.Name || all[1].Name != before.Name || !all[0].Handed {
			t.Errorf("order %v: holds %+v, %v", order, all, err)
		}
		conflicts, err := b.Conflicts()
		if err != nil || len(conflicts) != 2 {
			t.Fatalf("order %v: %d gave way, %v", order, len(conflicts), err)
		}
		for _, c := range conflicts {
			if c.Name == holds.Name || c.Held != holds.Name || !errors.Is(c.Err(), ErrConflict) {
				t.Errorf("order %v: %+v", order, c)
			}
			if v, err := VerifyRecord(c.Statement, globals, now); err != nil || v.Name != c.Name {
				t.Errorf("order %v: what gave way is no evidence: %v", order, err)
			}
		}
		refused := 0
		leaves, _ := st.Outbox(0, 100)
		for _, l := range leaves {
			if l.Kind == trail.PolicyRefuse.String() {
				refused++
			}
		}
		if refused != 2 {
			t.Errorf("order %v: %d leaves of what gave way", order, refused)
		}
		take(after, false)
		for _, v := range three {
			take(v, false)
		}
		if conflicts, err = b.Conflicts(); err != nil || len(conflicts) != 0 {
			t.Errorf("order %v: %d after a newer version, %v", order, len(conflicts), err)
		}
		st.Close()
	}
}

// What gave way is bounded, however many are signed.
func TestConflictsAreBounded(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	b := NewBook(st)
	for i := range 20 {
		v := verified(t, 37, func(r *Record) { r.Change = fmt.Sprint(i) })
		err := b.Keep(v, false, now)
		if errors.Is(err, ErrConflict) {
			err = b.Dispute(v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if all, err := b.Conflicts(); err != nil || len(all) != maxConflicts {
		t.Errorf("%d, %v", len(all), err)
	}
	if all, err := b.List(); err != nil || len(all) != 1 {
		t.Errorf("%d held, %v", len(all), err)
	}
}
