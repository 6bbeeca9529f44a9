package witnessing

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

const (
	remembered = 32 // rosters that were right lately: peers may be a moment behind, or ahead
	fresh      = time.Second
)

// Book is what the nodes of the region say of their keys, and the rosters that follow. Its
// methods may be called from any goroutine.
type Book struct {
	// eligible says whether a node may be a witness, vouched whether somebody vouches for a
	// record's trail key. They must not call the Book.
	eligible func(spiffeid.ID) bool
	vouched  func(Vouched) error

	mu      sync.Mutex // held for map work, and to work out a roster
	records map[spiffeid.ID]*shown
	rosters []witness.Roster // the newest last
	at      time.Time        // when that was worked out
}

// shown is a record of keys, as its node showed it.
type shown struct {
	Vouched
	raw  []byte
	good bool // somebody vouches for it; asked again while nobody does, as trust may come later
}

// NewBook makes an empty book. vouched says who stands for a record's trail key, beside the
// record's own signature in its node's feed: keys for which nobody does are nobody's.
func NewBook(eligible func(spiffeid.ID) bool, vouched func(Vouched) error) *Book {
	return &Book{eligible: eligible, vouched: vouched, records: map[spiffeid.ID]*shown{}}
}

func (b *Book) good(s *shown) bool {
	//bailiwick:check TestForeignKeys/of_a_trail instead s.good = true
	s.good = s.good || b.vouched(s.Vouched) == nil
	return s.good
}

// Heard takes in the value of a node's key named keys. One that is not the node's own, or
// malformed, leaves the node without keys.
func (b *Book) Heard(owner spiffeid.ID, value []byte) {
	v, err := ReadRecord(value)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || v.Owner != owner {
		delete(b.records, owner)
		return
	}
	b.records[owner] = &shown{Vouched: v, raw: bytes.Clone(value)}
}

// Record returns what a node shows of its keys, encoded; nil: nothing that anybody vouches
// for.
func (b *Book) Record(owner spiffeid.ID) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.records[owner]; s != nil && b.good(s) {
		return bytes.Clone(s.raw)
	}
	return nil
}

// Gone takes in that a node shows no keys any more.
func (b *Book) Gone(owner spiffeid.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.records, owner)
}

// Log is whose trail an origin is, and its key; the shape of witness.Config.Log.
func (b *Book) Log(origin string) (witness.Log, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, r := range b.records {
		if strings.HasPrefix(r.Trail, origin+"+") && b.good(r) {
			return witness.Log{Owner: id, Key: r.Trail}, true
		}
	}
	return witness.Log{}, false
}

// Roster works out the roster of now.
func (b *Book) Roster(now time.Time) witness.Roster {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster(now)
}

func (b *Book) roster(now time.Time) witness.Roster {
	var members []witness.Member
	for id, r := range b.records {
		if b.eligible(id) && b.good(r) {
			members = append(members, witness.Member{ID: id, Key: r.Witness})
		}
	}
	b.at = now
	r, err := witness.NewRoster(members)
	if err != nil {
		return witness.Roster{} // too many nodes for one region
	}
	if n := len(b.rosters); n == 0 || b.rosters[n-1].Hash() != r.Hash() {
		b.rosters = append(slices.DeleteFunc(b.rosters, func(old witness.Roster) bool { return old.Hash() == r.Hash() }), r)
		if len(b.rosters) > remembered {
			b.rosters = slices.Delete(b.rosters, 0, 1)
		}
	}
	return r
}

// ByHash returns a roster that was right lately.
func (b *Book) ByHash(hash [32]byte, now time.Time) (witness.Roster, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	find := func() (witness.Roster, bool) {
		i := slices.IndexFunc(b.rosters, func(r witness.Roster) bool { return r.Hash() == hash && hash != ([32]byte{}) })
		if i < 0 {
			return witness.Roster{}, false
		}
		return b.rosters[i], true
	}
	if r, ok := find(); ok || now.Sub(b.at) < fresh && !now.Before(b.at) {
		return r, ok
	}
	b.roster(now) // the record that makes it may have come since
	return find()
}
