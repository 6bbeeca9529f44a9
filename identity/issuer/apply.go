package issuer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// tokenLife is how long a join token may be used, once, that an applied entry names.
const tokenLife = 24 * time.Hour

// The owners of entries.
const (
	FromFile  = "file"  // the configuration's files
	FromApply = "apply" // Apply
	FromAPI   = "api"   // the operator's socket
)

// ErrNoEntry means there is no entry of this ID that Delete may take away.
var ErrNoEntry = errors.New("no such registration entry here")

// Registered is an entry as the issuer keeps it.
type Registered struct {
	Entry
	ID      string
	From    string // FromFile, FromApply or FromAPI
	InForce bool   // false: a file contradicts it, or says the same
}

// Apply says how entries are to be applied.
type Apply struct {
	// Prune takes away what was applied before and is not in the list.
	Prune bool
	// DryRun only tells what would change.
	DryRun bool
}

// Change is what applying did to one entry.
type Change struct {
	Before, After *Registered // nil: it is new; it is gone
}

// Applied is what came of a list of entries.
type Applied struct {
	Changes   []Change
	Unchanged int
	// Refused says what is wrong with entries, by their place in the list. If there
	// are any, nothing was changed. All match ErrEntry.
	Refused map[int]error
}

// Entries returns all entries: those of files, applied ones, and the socket's, in
// the order of their IDs.
func (s *Server) Entries() (out []Registered, err error) {
	d := s.entries.Load()
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		kept, err := readEntries(tx)
		for _, r := range kept {
			if _, ok := d.byID[r.ID]; !ok {
				out = append(out, r.public(d))
			}
		}
		return err
	})
	for _, id := range d.ids() {
		out = append(out, d.byID[id].public(d))
	}
	slices.SortFunc(out, func(a, b Registered) int { return strings.Compare(a.ID, b.ID) })
	return out, err
}

// Revision is another value whenever the entries in force are others.
func (s *Server) Revision() [32]byte { return s.entries.Load().revision }

func (r registered) public(in *directory) Registered {
	out := Registered{Entry: r.Entry, ID: r.ID, From: FromAPI}
	_, out.InForce = in.byID[r.ID]
	switch {
	case r.fromFile():
		out.From = FromFile
	case r.applied():
		out.From = FromApply
	}
	if r.isNode() {
		out.Selectors = nil
	}
	return out
}

// Apply makes the applied entries say what a list says; see the package doc. The
// error means that nothing was changed, for a reason that is not in the list.
func (s *Server) Apply(entries []Entry, how Apply) (Applied, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	var p plan
	work := func(tx *store.Tx) (err error) {
		if p, err = s.plan(tx, entries, how.Prune); err != nil || how.DryRun || len(p.Refused) > 0 {
			return err
		}
		return s.carryOut(tx, p)
	}
	run := s.cfg.Store.Update
	if how.DryRun {
		run = s.cfg.Store.View
	}
	if err := run(work); err != nil {
		return Applied{}, err
	}
	if !how.DryRun && len(p.Refused) == 0 {
		s.entries.Store(p.after)
	}
	return p.Applied, nil
}

// plan is what applying a list comes to.
type plan struct {
	Applied
	gone  []registered
	fresh []registered
	after *directory
}

// plan changes nothing.
func (s *Server) plan(tx *store.Tx, entries []Entry, prune bool) (p plan, err error) {
	p.Refused = map[int]error{}
	stored, err := readEntries(tx)
	if err != nil {
		return p, err
	}
	type grant struct{ id, parent spiffeid.ID }
	kept, given := map[string]registered{}, map[grant]bool{} // applied before
	for _, r := range stored {
		if r.applied() {
			kept[r.ID] = r
			given[grant{r.SPIFFEID, r.ParentID}] = true
		}
	}
	refuse := func(i int, why error) {
		p.Refused[i] = fmt.Errorf("%w: %s: %w", ErrEntry, entries[i].SPIFFEID, why)
	}
	wanted := map[string]int{}
	list := make([]registered, len(entries))
	for i, e := range entries {
		if err := e.check(s.td); err != nil {
			refuse(i, err)
			continue
		}
		list[i] = newApplied(e)
		if other, twice := wanted[list[i].ID]; twice {
			refuse(i, fmt.Errorf("entry %d says the same", other+1))
			continue
		}
		wanted[list[i].ID] = i
		if hash, ok := tokenOf(e); ok && e.isNode() {
			switch {
			case s.tokens == nil:
				refuse(i, errors.New("join tokens are not accepted here"))
			case tx.Get(tokensBucket, hash) != nil && !given[grant{e.SPIFFEID, e.ParentID}]:
				refuse(i, errors.New("its join token is spent: make a new one"))
			}
		}
	}
	places := newPlaces(list)
	before, gone := map[int]registered{}, map[string]bool{}
	for _, r := range stored {
		if _, stays := wanted[r.ID]; stays || !r.applied() {
			continue
		}
		i, replaced := places.of(r)
		if replaced {
			before[i] = r
		}
		if replaced || prune {
			gone[r.ID], p.gone = true, append(p.gone, r)
		}
	}
	p.after, err = s.indexOf(slices.DeleteFunc(stored, func(r registered) bool {
		_, again := wanted[r.ID]
		return again || gone[r.ID]
	}), s.files)
	if err != nil {
		return p, err
	}
	for i, r := range list {
		if p.Refused[i] != nil {
			continue
		}
		if err := p.after.take(r); err != nil {
			refuse(i, err)
			continue
		}
		if _, same := kept[r.ID]; same {
			p.Unchanged++
			continue
		}
		p.fresh = append(p.fresh, r)
		p.Changes = append(p.Changes, change(before, i, r, p.after))
	}
	p.after.sort()
	if len(p.after.byID) > s.maxEntries {
		return p, fmt.Errorf("%w: %d entries, at most %d", ErrEntry, len(p.after.byID), s.maxEntries)
	}
	p.tellGone(before, s.entries.Load())
	if len(p.Refused) > 0 {
		p.Changes, p.Unchanged = nil, 0
	}
	return p, nil
}

func change(before map[int]registered, i int, r registered, after *directory) Change {
	now := r.public(after)
	c := Change{After: &now}
	if was, ok := before[i]; ok {
		old := was.public(after)
		c.Before = &old
	}
	return c
}

// tellGone adds the changes of those that are only taken away.
func (p *plan) tellGone(before map[int]registered, was *directory) {
	replaced := map[string]bool{}
	for _, r := range before {
		replaced[r.ID] = true
	}
	for _, r := range p.gone {
		if !replaced[r.ID] {
			old := r.public(was)
			p.Changes = append(p.Changes, Change{Before: &old})
		}
	}
}

// carryOut writes a plan, with a leaf for each entry.
func (s *Server) carryOut(tx *store.Tx, p plan) error {
	now := time.Now()
	for _, r := range p.gone {
		if err := tx.Delete(entriesBucket, []byte(r.ID)); err != nil {
			return err
		}
		if err := leaf(tx, leafAdmin, adminLeaf{What: "delete entry", Entry: r.ID, ID: r.SPIFFEID.String(), Parent: r.ParentID.String()}); err != nil {
			return err
		}
	}
	for _, r := range p.fresh {
		r.Created = now.Truncate(time.Second)
		if err := r.put(tx); err != nil {
			return err
		}
		if hash, ok := tokenOf(r.Entry); ok && s.opens(tx, r.Entry, [32]byte(hash)) {
			if err := s.tokens.add(tx, [32]byte(hash), now.Add(tokenLife), now); err != nil {
				return err
			}
		}
		if err := leaf(tx, leafAdmin, adminLeaf{What: "create entry", Entry: r.ID, ID: r.SPIFFEID.String(), Parent: r.ParentID.String()}); err != nil {
			return err
		}
	}
	return nil
}

// Delete takes away one entry that was applied or made at the socket. Errors match
// ErrNoEntry, or ErrEntry for one of a file.
func (s *Server) Delete(id string) (Registered, error) {
	e := s.remove(id)
	was := s.entries.Load()
	err := s.change("delete entry", []*edit{e})
	switch {
	case err != nil:
		return Registered{}, err
	case errors.Is(e.err, errNoEntry):
		return Registered{}, fmt.Errorf("%w: %q", ErrNoEntry, id)
	case e.err != nil:
		return Registered{}, fmt.Errorf("%w: %s: %w", ErrEntry, id, e.err)
	}
	return e.done.public(was), nil
}

// newApplied gives an entry its one spelling and its name.
func newApplied(e Entry) registered {
	e.Selectors = slices.Compact(slices.Sorted(slices.Values(e.Selectors)))
	if e.isNode() && e.Class == "" {
		e.Class = "node"
	}
	return registered{Entry: e, ID: applyID + strings.TrimPrefix(e.id(), fileID)}
}

// places finds the entry of a list beside which another cannot stand.
type places struct {
	what            map[[32]byte]int
	nodes, machines map[spiffeid.ID]int
}

func newPlaces(list []registered) places {
	p := places{map[[32]byte]int{}, map[spiffeid.ID]int{}, map[spiffeid.ID]int{}}
	for i, r := range list {
		if r.ID == "" {
			continue // it was refused
		}
		p.what[r.what()] = i
		if r.isNode() {
			p.nodes[r.SPIFFEID], p.machines[r.ParentID] = i, i
		}
	}
	return p
}

func (p places) of(r registered) (i int, ok bool) {
	if i, ok = p.what[r.what()]; ok || !r.isNode() {
		return i, ok
	}
	if i, ok = p.nodes[r.SPIFFEID]; ok {
		return i, ok
	}
	i, ok = p.machines[r.ParentID]
	return i, ok
}

// take adds an entry of the store, unless a file says the same.
func (d *directory) take(r registered) error {
	if other, ok := d.byWhat[r.what()]; ok {
		if d.byID[other].fromFile() {
			return nil
		}
		return fmt.Errorf("entry %s says the same: delete it first", other)
	}
	return d.add(r)
}

// opens reports whether an entry makes its token usable: not one that is spent, and a
// workload's leaves a token that is known as long as it is.
func (s *Server) opens(tx *store.Tx, e Entry, hash [32]byte) bool {
	return s.tokens != nil && tx.Get(tokensBucket, hash[:]) == nil && (e.isNode() || s.tokens.expiry(hash).IsZero())
}

// tokenOf returns the hash of the join token of an entry's agent.
func tokenOf(e Entry) ([]byte, bool) {
	name, ok := strings.CutPrefix(e.ParentID.Path(), "/spire/agent/join_token/")
	hash, err := hex.DecodeString(name)
	return hash, ok && err == nil && len(hash) == 32
}

func readEntries(tx *store.Tx) (out []registered, err error) {
	tx.Range(entriesBucket, nil, func(k, v []byte) bool {
		var r registered
		if r, err = readEntry(string(k), v); err != nil {
			err = fmt.Errorf("stored entry %s: %w", k, err)
			return false
		}
		out = append(out, r)
		return true
	})
	return out, err
}
