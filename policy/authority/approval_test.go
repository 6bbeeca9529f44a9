package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// newApprovers makes n keys, of which threshold have to approve releases.
func newApprovers(t testing.TB, threshold, n int) ([]*ecdsa.PrivateKey, Approvers) {
	t.Helper()
	need := Approvers{Threshold: threshold}
	var keys []*ecdsa.PrivateKey
	for range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys, need.Keys = append(keys, key), append(need.Keys, &key.PublicKey)
	}
	return keys, need
}

// guarded is an authority whose releases need approvals, and what every node trusts for it.
func guarded(t testing.TB, need Approvers) (*Authority, Keys) {
	t.Helper()
	dir := t.TempDir()
	key, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(key, self, Regional, openStore(t, filepath.Join(dir, "store.db")), func() Approvers { return need })
	if err != nil {
		t.Fatal(err)
	}
	return a, func(Level) Signers { return Signers{Keys: []*ecdsa.PublicKey{key.Public()}, Approvers: need} }
}

func draft(t testing.TB, a *Authority, reason string) Draft {
	t.Helper()
	d, err := a.Draft(t0, shop, [][32]byte{{1}}, t0.Add(time.Hour), reason, true)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func approve(t testing.TB, d Draft, keys ...*ecdsa.PrivateKey) Draft {
	t.Helper()
	for _, key := range keys {
		var err error
		if d, err = d.Approve(key); err != nil {
			t.Fatal(err)
		}
		b, err := d.Encode() // as a file, from hand to hand
		if err != nil {
			t.Fatal(err)
		}
		if d, err = ParseDraft(b); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// A release counts with the approval of as many different keys as the region wants, of exactly what
// it says. What is missing is said by name.
func TestReleasesNeedApprovals(t *testing.T) {
	keys, need := newApprovers(t, 2, 3)
	strangers, _ := newApprovers(t, 1, 1)
	a, trusted := guarded(t, need)
	d := draft(t, a, "a copy ran")

	for name, c := range map[string]struct {
		d       Draft
		missing []int
	}{
		"nobody":           {d, []int{0, 1, 2}},
		"one":              {approve(t, d, keys[1]), []int{0, 2}},
		"one twice":        {approve(t, d, keys[1], keys[1]), []int{0, 2}},
		"one and stranger": {approve(t, d, keys[2], strangers[0]), []int{0, 1}},
		"another release":  {Draft{d.TrustDomain, d.Release, d.body, approve(t, draft(t, a, "another reason"), keys...).approvals}, []int{0, 1, 2}},
	} {
		_, err := a.Decide(t0, c.d)
		if !errors.Is(err, quarantine.ErrApprovals) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, missing, _ := strings.Cut(err.Error(), "missing of ")
		for i, key := range need.Keys {
			if strings.Contains(missing, KeyName(key)) != slices.Contains(c.missing, i) {
				t.Errorf("%s: key %d: %v", name, i, err)
			}
		}
	}
	if _, err := a.Release(t0, shop, nil, t0.Add(time.Hour), "alone", false); !errors.Is(err, quarantine.ErrApprovals) {
		t.Errorf("by the authority alone: %v", err)
	}
	if got := a.Objects(); len(got) != 0 {
		t.Fatalf("refused, and signed %d objects", len(got))
	}

	s, err := a.Decide(t0, approve(t, d, keys[2], keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(s.Raw, td, trusted)
	want := []string{KeyName(need.Keys[0]), KeyName(need.Keys[2])}
	if err != nil || !slices.Equal(got.ApprovedBy, want) {
		t.Errorf("approved by %v, %v, want %v", got.ApprovedBy, err, want)
	}
	if r, err := OpenRelease(s.Raw, td, trusted); err != nil || r.Reason != "a copy ran" {
		t.Errorf("%+v, %v", r, err)
	}
	again, err := a.Decide(t0, approve(t, d, keys...))
	if err != nil || again.Digest != s.Digest {
		t.Errorf("handed in again: version %d, %v", again.Version, err)
	}
}

// Whoever has the authority's key, and skips what Decide asks, convinces no node; nor does a
// threshold that the keys cannot reach, or that one key reaches by being named twice.
func TestAStolenAuthorityKeyReleasesNobody(t *testing.T) {
	keys, need := newApprovers(t, 2, 2)
	a, trusted := guarded(t, need)
	d := draft(t, a, "let me in")
	forge := func(kind Kind, approvals ...[]byte) ([]byte, error) {
		s, err := seal(a.key.secret, td, Object{
			Kind: kind, Level: Regional, Name: shop.String(), Version: 1, Origin: self, Body: d.body, Approvals: approvals,
		})
		return s.Raw, err
	}
	west := Draft{TrustDomain: spiffeid.RequireTrustDomainFromString("west.dev.example"), body: d.body}
	for _, key := range keys {
		var err error
		if west, err = west.Approve(key); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := west.Encode(); err != nil {
		t.Fatal(err)
	} else if _, err := ParseDraft(b); !errors.Is(err, quarantine.ErrDraft) {
		t.Errorf("a draft of west about east: %v", err)
	}
	for name, approvals := range map[string][][]byte{
		"none": nil, "one": approve(t, d, keys[0]).approvals,
		"of another region": west.approvals,
	} {
		raw, err := forge(KindRelease, approvals...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRelease(raw, td, trusted); !errors.Is(err, quarantine.ErrApprovals) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := NewBook(td, trusted).Add(raw); !errors.Is(err, quarantine.ErrApprovals) {
			t.Errorf("%s: the book took it: %v", name, err)
		}
	}
	both := approve(t, d, keys...).approvals
	raw, err := forge(KindRelease, both...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRelease(raw, td, trusted); err != nil {
		t.Errorf("with both: %v", err)
	}
	for name, need := range map[string]Approvers{
		"out of reach":    {Threshold: 3, Keys: need.Keys},
		"one named twice": {Threshold: 2, Keys: []*ecdsa.PublicKey{need.Keys[0], need.Keys[0], nil}},
	} {
		keys := func(l Level) Signers { s := trusted(l); s.Approvers = need; return s }
		if _, err := OpenRelease(raw, td, keys); !errors.Is(err, quarantine.ErrApprovals) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, approvals := range map[string][][]byte{
		"out of order": {both[1], both[0]}, "twice": {both[0], both[0]}, "no statement": {{1}},
		"too many": slices.Repeat([][]byte{both[0]}, MaxApprovals+1),
	} {
		if _, err := forge(KindRelease, approvals...); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := forge(KindRevocation, both...); err == nil {
		t.Error("a revocation carries approvals")
	}
}

// A draft is good for what was so when it was made.
func TestADraftIsForItsTime(t *testing.T) {
	keys, need := newApprovers(t, 1, 1)
	for name, c := range map[string]struct {
		meanwhile func(*Authority) error
		at        time.Time
		want      error
	}{
		"in time":  {at: t0.Add(time.Hour)},
		"too late": {at: t0.Add(time.Hour + time.Second), want: quarantine.ErrDraft},
		"epochs were given": {func(a *Authority) error {
			_, err := a.Epochs().Allocate(t0, EpochRequest{Node: shop, FeedKey: []byte("key")})
			return err
		}, t0, quarantine.ErrDraft},
		"released by another": {func(a *Authority) error {
			d, err := a.Draft(t0, shop, [][32]byte{{2}}, t0.Add(time.Hour), "x", false)
			if err == nil {
				_, err = a.Decide(t0, approve(t, d, keys[0]))
			}
			return err
		}, t0, quarantine.ErrDraft},
		"revoked": {func(a *Authority) error { _, err := a.Revoke(t0, shop, "x"); return err }, t0, ErrRevoked},
	} {
		a, _ := guarded(t, need)
		d := approve(t, draft(t, a, "a copy ran"), keys[0])
		if c.meanwhile != nil {
			if err := c.meanwhile(a); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		before := len(a.Objects())
		if _, err := a.Decide(c.at, d); !errors.Is(err, c.want) || c.want != nil && len(a.Objects()) != before {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	a, _ := guarded(t, need)
	west := Draft{TrustDomain: spiffeid.RequireTrustDomainFromString("west.dev.example"), Release: draft(t, a, "x").Release}
	if _, err := a.Decide(t0, west); !errors.Is(err, ErrForeign) {
		t.Errorf("another region's: %v", err)
	}
	if _, err := a.Draft(t0, spiffeid.RequireFromString("spiffe://west.dev.example/node/n1"), nil, t0, "x", false); !errors.Is(err, ErrForeign) {
		t.Errorf("of another region's node: %v", err)
	}
}

// Releases from before a region had approvers are kept by their authority, which counts on from
// them; a node that reads them anew does not go by them.
func TestReleasesFromBeforeApprovers(t *testing.T) {
	var need Approvers
	keys, later := newApprovers(t, 1, 1)
	dir := t.TempDir()
	key, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	st := openStore(t, filepath.Join(dir, "store.db"))
	open := func() *Authority {
		a, err := New(key, self, Regional, st, func() Approvers { return need })
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	first, err := open().Release(t0, shop, nil, t0.Add(time.Hour), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	need = later
	a := open()
	if _, err := a.Draft(t0, shop, nil, t0.Add(time.Hour), "y", false); !errors.Is(err, ErrRepeat) {
		t.Errorf("the release before is forgotten: %v", err)
	}
	second, err := a.Decide(t0, approve(t, draft(t, a, "y"), keys[0]))
	if err != nil || second.Version != first.Version+1 {
		t.Errorf("version %d after %d: %v", second.Version, first.Version, err)
	}
	trusted := func(Level) Signers { return Signers{Keys: []*ecdsa.PublicKey{key.Public()}, Approvers: need} }
	book := NewBook(td, trusted)
	if _, _, err := book.Add(first.Raw); !errors.Is(err, quarantine.ErrApprovals) {
		t.Errorf("the old one: %v", err)
	}
	if _, _, err := book.Add(second.Raw); err != nil {
		t.Error(err)
	}
	other := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	if err := other.Update(func(tx *store.Tx) error { return book.Put(tx, first) }); err != nil {
		t.Fatal(err)
	}
	if err := NewBook(td, trusted).Load(other); err != nil {
		t.Errorf("a node that kept it does not start: %v", err)
	}
}

func FuzzParseDraft(f *testing.F) {
	keys, need := newApprovers(f, 1, 2)
	a, trusted := guarded(f, need)
	d := draft(f, a, "x")
	for _, d := range []Draft{d, approve(f, d, keys[0]), approve(f, d, keys...)} {
		b, err := d.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := ParseDraft(in)
		if err != nil {
			if !errors.Is(err, quarantine.ErrDraft) {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		if b, err := d.Encode(); err != nil || !bytes.Equal(b, in) {
			t.Errorf("another spelling, %v", err)
		}
		if d.Release.Accused.TrustDomain() != d.TrustDomain || d.Approvals() > MaxApprovals {
			t.Errorf("out of bounds: %+v", d)
		}
		trusted(Regional).Approvers.check(d.TrustDomain, d.body, d.approvals)
	})
}
