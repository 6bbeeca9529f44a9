package witness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	Chosen = 4 // witnesses of a head
	Quorum = 3 // of them that make it witnessed

	MaxMembers = 16384
	MaxRoster  = 8 << 20 // bytes; a line takes some 150
	outside    = Chosen - Quorum + 1
)

// ErrRoster means a roster is not in its only spelling, or names a node twice, or gives
// it a key that is not its own. Whoever wrote it made a mistake: take another.
var ErrRoster = errors.New("not a roster of witnesses")

// Member is a node that may be a witness.
type Member struct {
	ID  spiffeid.ID
	Key string // as Key.Verifier prints it
}

// Roster is the nodes of a region that may be witnesses. The zero value has none.
type Roster struct {
	members []Member // by the bytes of their IDs
	raw     []byte
}

// NewRoster makes a roster of members in any order. Errors wrap ErrRoster.
func NewRoster(members []Member) (Roster, error) {
	var b bytes.Buffer
	for _, m := range slices.SortedFunc(slices.Values(members), func(a, b Member) int { return strings.Compare(a.ID.String(), b.ID.String()) }) {
		fmt.Fprintf(&b, "witness %s %s\n", m.ID, m.Key)
	}
	return ParseRoster(b.Bytes())
}

// ParseRoster reads what Bytes gives. Errors wrap ErrRoster.
func ParseRoster(b []byte) (Roster, error) {
	if len(b) > MaxRoster {
		return Roster{}, fmt.Errorf("%w: %d bytes, at most %d", ErrRoster, len(b), MaxRoster)
	}
	r := Roster{raw: bytes.Clone(b)}
	for n := 1; len(b) > 0; n++ {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		b = rest
		f := strings.Split(string(line), " ")
		if !ended || len(f) != 3 || f[0] != "witness" || n > MaxMembers {
			return Roster{}, fmt.Errorf("%w: line %d is not: witness <SPIFFE ID> <verifier key>", ErrRoster, n)
		}
		id, err := spiffeid.FromString(f[1])
		if err != nil {
			return Roster{}, fmt.Errorf("%w: line %d: %w", ErrRoster, n, err)
		}
		if _, err := parseKey(id, f[2]); err != nil {
			return Roster{}, fmt.Errorf("%w: line %d: %w", ErrRoster, n, err)
		}
		if n > 1 && r.members[n-2].ID.String() >= id.String() {
			return Roster{}, fmt.Errorf("%w: line %d is not behind the line before", ErrRoster, n)
		}
		r.members = append(r.members, Member{id, f[2]})
	}
	return r, nil
}

// Bytes is the roster as a head's hash names it.
func (r Roster) Bytes() []byte { return bytes.Clone(r.raw) }

// Hash is what a head names; all zero where there are no members.
func (r Roster) Hash() [32]byte {
	if len(r.members) == 0 {
		return [32]byte{}
	}
	return sha256.Sum256(r.raw)
}

// Members are all members, by ID.
func (r Roster) Members() []Member { return slices.Clone(r.members) }

// Choose returns the witnesses of a node's heads, best first: Chosen of them, or none
// where the roster has too few others.
func (r Roster) Choose(owner spiffeid.ID) []Member {
	type scored struct {
		Member
		score [32]byte
		far   bool
	}
	var all []scored
	for _, m := range r.members {
		if m.ID == owner {
			continue
		}
		s := sha256.Sum256([]byte("bailiwick witness/1\x00" + owner.String() + "\x00" + m.ID.String()))
		all = append(all, scored{m, s, domain(m.ID) != domain(owner)})
	}
	if len(all) < Chosen {
		return nil
	}
	slices.SortFunc(all, func(a, b scored) int { return bytes.Compare(a.score[:], b.score[:]) })
	chosen, rest := slices.Clone(all[:Chosen]), all[Chosen:]
	far := 0
	for _, c := range chosen {
		if c.far {
			far++
		}
	}
	for _, c := range rest {
		if far >= outside {
			break
		}
		if !c.far {
			continue
		}
		i := len(chosen) - 1
		for chosen[i].far {
			i-- // of the near ones the last gives way
		}
		chosen = append(slices.Delete(chosen, i, i+1), c)
		far++
	}
	out := make([]Member, len(chosen))
	for i, c := range chosen {
		out[i] = c.Member
	}
	return out
}

// domain is the failure domain of a node: its zone or, without one, itself.
func domain(id spiffeid.ID) string {
	seg := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	if len(seg) == 4 && seg[0] == "zone" {
		return "zone/" + seg[1]
	}
	return id.String()
}
