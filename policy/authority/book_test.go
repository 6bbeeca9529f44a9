package authority

import (
	"crypto/ecdsa"
	"errors"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// object signs an arbitrary object with the authority's key.
func (a *Authority) object(t testing.TB, version, hlc uint64, parent [32]byte, ids ...spiffeid.ID) Signed {
	t.Helper()
	body, err := Service{Name: "shop", IDs: ids}.encode()
	if err != nil {
		t.Fatal(err)
	}
	s, err := seal(a.key.secret, td, Object{KindService, Regional, "shop", version, hlc, self, parent, body, nil})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBookRefuses(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	book := NewBook(td, a.keys)
	first := a.object(t, 5, 1, [32]byte{}, shop)
	if _, _, err := book.Add(stranger.object(t, 1, 1, [32]byte{}, shop).Raw); !errors.Is(err, ErrSigner) {
		t.Errorf("another key: %v, want %v", err, ErrSigner)
	}
	other := NewBook(spiffeid.RequireTrustDomainFromString("west.dev.example"), a.keys)
	if _, _, err := other.Add(first.Raw); !errors.Is(err, ErrForeign) {
		t.Errorf("another trust domain: %v, want %v", err, ErrForeign)
	}
	book.Add(first.Raw)
	if _, _, err := book.Add(a.object(t, 4, 9, [32]byte{}, self).Raw); !errors.Is(err, ErrRollback) {
		t.Errorf("older: %v, want %v", err, ErrRollback)
	}
	if _, _, err := book.Add(a.object(t, 1006, 9, [32]byte{}, self).Raw); !errors.Is(err, ErrJump) {
		t.Errorf("jump: %v, want %v", err, ErrJump)
	}
	if _, changed, err := book.Add(a.object(t, 1006, 9, first.Digest, self).Raw); err != nil || !changed {
		t.Errorf("jump chained to its parent: %v", err)
	}
	if _, _, err := NewBook(td, nil).Add(first.Raw); !errors.Is(err, ErrSigner) {
		t.Errorf("no keys: %v, want %v", err, ErrSigner)
	}
}

func TestConflictKeepsTheLoser(t *testing.T) {
	a := newAuthority(t)
	x := a.object(t, 3, 10, [32]byte{}, shop)
	y := a.object(t, 3, 20, [32]byte{}, self)
	z := a.object(t, 3, 15, [32]byte{}, self, shop)
	for _, order := range [][]Signed{{x, y, z}, {z, y, x}, {y, x, z}, {x, z, y}} {
		book := NewBook(td, a.keys)
		for range 2 {
			for _, s := range order {
				if _, _, err := book.Add(s.Raw); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, _ := book.Get(KindService, "shop")
		conflicts := book.Conflicts()
		if got.Digest != y.Digest || len(conflicts) != 2 {
			t.Fatalf("winner at HLC %d, %d conflicts", got.HLC, len(conflicts))
		}
		for _, c := range conflicts {
			if c.Winner.Digest != y.Digest || c.Loser.Digest == y.Digest {
				t.Errorf("conflict: winner at %d, loser at %d", c.Winner.HLC, c.Loser.HLC)
			}
		}
	}
}

func TestHigherLevelPrevails(t *testing.T) {
	a := newAuthority(t)
	keys := func(Level) Signers { return Signers{Keys: []*ecdsa.PublicKey{a.key.Public()}} }
	book := NewBook(td, keys)
	body, _ := Service{Name: "shop", IDs: []spiffeid.ID{self}}.encode()
	global, err := seal(a.key.secret, td, Object{KindService, Global, "shop", 1, 1, self, [32]byte{}, body, nil})
	if err != nil {
		t.Fatal(err)
	}
	book.Add(a.object(t, 9, 99, [32]byte{}, shop).Raw)
	book.Add(global.Raw)
	if got, _ := book.Get(KindService, "shop"); got.Level != Global {
		t.Errorf("got %s version %d", got.Level, got.Version)
	}
}
