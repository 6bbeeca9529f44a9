package authority

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

var (
	// ErrRollback means an older version than the one held was offered. It is
	// kept out; a late relay does this in good faith.
	ErrRollback = errors.New("authority object is older than the one held")

	// ErrJump means a version is more than 1000 ahead of the one held and does
	// not name it as its parent. Offer the versions between.
	ErrJump = errors.New("authority object's version jumps too far")

	// ErrBookFull means the book has no room for another slot.
	ErrBookFull = errors.New("authority book is full")
)

const (
	maxJump      = 1000
	maxSlots     = 8192
	maxConflicts = 256
)

type slot struct {
	level Level
	kind  Kind
	name  string
}

func (s Signed) slot() slot { return slot{s.Level, s.Kind, s.Name} }

// Conflict is two signed objects of one slot and version. Both signatures are
// in their Raw.
type Conflict struct{ Winner, Loser Signed }

// Book holds the newest object of each slot of one trust domain. Its methods
// may be called from any goroutine.
type Book struct {
	td   spiffeid.TrustDomain
	keys Keys

	mu        sync.RWMutex // guards the fields below, for map work only
	newest    map[slot]Signed
	conflicts []Conflict // sorted by loser's digest, each once
}

// NewBook returns an empty book for the objects of one trust domain.
func NewBook(td spiffeid.TrustDomain, keys Keys) *Book {
	return &Book{td: td, keys: keys, newest: map[slot]Signed{}}
}

// Add verifies an object and keeps it if it is the newest of its slot. changed
// says whether it was; the object is returned in either case. An object that is
// held already is no error. Errors wrap those of Open, ErrRollback, ErrJump or
// ErrBookFull.
func (b *Book) Add(raw []byte) (s Signed, changed bool, err error) {
	if s, err = Open(raw, b.td, b.keys); err != nil {
		return Signed{}, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	have, ok := b.newest[s.slot()]
	switch {
	case !ok && len(b.newest) >= maxSlots:
		return s, false, fmt.Errorf("%w: %d objects", ErrBookFull, maxSlots)
	case !ok:
	case s.Digest == have.Digest:
		return have, false, nil
	case s.Version < have.Version:
		return s, false, fmt.Errorf("%w: %s %s %q version %d, held is %d", ErrRollback, s.Level, s.Kind, s.Name, s.Version, have.Version)
	case s.Version == have.Version:
		if Compare(s, have) < 0 {
			b.conflict(have, s)
			return s, false, nil
		}
		b.conflict(s, have)
	case s.Kind == KindBeacon: // it says nothing but itself, and a node that was cut off has missed many
	case s.Version-have.Version > maxJump && s.Parent != have.Digest:
		return s, false, fmt.Errorf("%w: %s %s %q version %d, held is %d", ErrJump, s.Level, s.Kind, s.Name, s.Version, have.Version)
	}
	b.newest[s.slot()] = s
	return s, true, nil
}

// conflict remembers the loser once; the first maxConflicts by digest are kept.
func (b *Book) conflict(winner, loser Signed) {
	i, known := slices.BinarySearchFunc(b.conflicts, loser, func(c Conflict, s Signed) int {
		return slices.Compare(c.Loser.Digest[:], s.Digest[:])
	})
	if !known {
		b.conflicts = slices.Insert(b.conflicts, i, Conflict{Loser: loser})
	}
	for j, c := range b.conflicts {
		if c.Loser.slot() == winner.slot() && c.Loser.Version == winner.Version {
			b.conflicts[j].Winner = winner
		}
	}
	b.conflicts = b.conflicts[:min(len(b.conflicts), maxConflicts)]
}

// Get returns the object of a kind and name that prevails over all levels.
func (b *Book) Get(kind Kind, name string) (Signed, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for l := Global; l >= Autonomous; l-- {
		if s, ok := b.newest[slot{l, kind, name}]; ok {
			return s, true
		}
	}
	return Signed{}, false
}

// Service returns the identities that may answer to a service name. An unknown
// name has none.
func (b *Book) Service(name string) Service {
	s, ok := b.Get(KindService, name)
	if !ok {
		return Service{Name: name}
	}
	service, err := s.Service()
	if err != nil {
		return Service{Name: name}
	}
	return service
}

// Record returns the authority record of a region label; the zero record, which
// allows nothing, when there is none.
func (b *Book) Record(region string) Record {
	s, ok := b.Get(KindRecord, region)
	if !ok {
		return Record{}
	}
	r, err := s.Record()
	if err != nil {
		return Record{}
	}
	return r
}

// Objects returns all objects held, sorted by kind, name and level.
func (b *Book) Objects() []Signed {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.SortedFunc(maps.Values(b.newest), func(x, y Signed) int {
		return cmp.Or(strings.Compare(string(x.Kind), string(y.Kind)), strings.Compare(x.Name, y.Name), cmp.Compare(x.Level, y.Level))
	})
}

// Conflicts returns the conflicts seen, at most 256.
func (b *Book) Conflicts() []Conflict {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Clone(b.conflicts)
}

const bookBucket = "authority/book"

// Put writes an object that Add took into the node's store.
func (b *Book) Put(tx *store.Tx, s Signed) error {
	key := strings.Join([]string{b.td.Name(), string(s.Kind), s.Level.String(), s.Name}, "\x00")
	return tx.Put(bookBucket, []byte(key), s.Raw)
}

// Load adds what Put wrote. Objects that no longer verify are left out: their
// key was replaced, and the new key signs anew; or releases have come to need approvals.
func (b *Book) Load(st *store.Store) error {
	prefix := b.td.Name() + "\x00"
	var raws [][]byte
	err := st.View(func(tx *store.Tx) error {
		tx.Range(bookBucket, []byte(prefix), func(k, v []byte) bool {
			if !strings.HasPrefix(string(k), prefix) {
				return false
			}
			raws = append(raws, slices.Clone(v))
			return true
		})
		return nil
	})
	if err != nil {
		return fmt.Errorf("authority book: %w", err)
	}
	for _, raw := range raws {
		if _, _, err := b.Add(raw); err != nil && !errors.Is(err, ErrSigner) && !errors.Is(err, quarantine.ErrApprovals) {
			return fmt.Errorf("authority book: %w", err)
		}
	}
	return nil
}
