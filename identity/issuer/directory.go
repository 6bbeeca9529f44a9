package issuer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// registered is an Entry with what the issuer adds to it.
type registered struct {
	Entry
	ID       string
	Revision int64     // of an entry from the API: grows with every update
	Created  time.Time // of an entry from the API
}

// fromFile and applied report where the entry comes from.
func (r registered) fromFile() bool { return strings.HasPrefix(r.ID, fileID) }
func (r registered) applied() bool  { return strings.HasPrefix(r.ID, applyID) }

func (r registered) expired(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }

// directory is the set of entries, indexed. It does not change once it is in use.
type directory struct {
	td       spiffeid.TrustDomain
	byID     map[string]registered
	byWhat   map[[32]byte]string         // ID, parent and selectors -> entry ID
	children map[spiffeid.ID][]string    // parent -> entry IDs, sorted
	agents   map[spiffeid.ID]spiffeid.ID // node ID -> its agent ID
	nodes    map[spiffeid.ID]spiffeid.ID // agent ID -> its node ID
	wire     *wire
	revision [32]byte // of all entries; set by sort
}

// CheckEntries returns why the entries of files cannot be in force together, or nil.
// Errors match ErrEntry and name each.
func CheckEntries(td spiffeid.TrustDomain, entries []Entry) error {
	_, err := newDirectory(td, entries)
	return err
}

// newDirectory indexes the entries of files.
func newDirectory(td spiffeid.TrustDomain, entries []Entry) (*directory, error) {
	d := &directory{td: td, byID: map[string]registered{}, byWhat: map[[32]byte]string{}, children: map[spiffeid.ID][]string{},
		agents: map[spiffeid.ID]spiffeid.ID{}, nodes: map[spiffeid.ID]spiffeid.ID{}, wire: &wire{}}
	var errs []error
	for i, e := range entries {
		if err := d.add(registered{Entry: e}); err != nil {
			errs = append(errs, fmt.Errorf("%w: entry %d (%s): %w", ErrEntry, i, e.SPIFFEID, err))
		}
	}
	d.sort()
	return d, errors.Join(errs...)
}

// add takes an entry in, or says why it cannot be. The caller sorts when it has
// added all.
func (d *directory) add(r registered) error {
	if err := r.check(d.td); err != nil {
		return err
	}
	r.Selectors = slices.Sorted(slices.Values(r.Selectors))
	if r.isNode() {
		if other, ok := d.agents[r.SPIFFEID]; ok {
			return fmt.Errorf("two machines cannot be one node: its parent is also %s", other)
		}
		if other, ok := d.nodes[r.ParentID]; ok {
			return fmt.Errorf("one machine cannot be two nodes: its parent is also node %s", other)
		}
		if r.Class == "" {
			r.Class = "node"
		}
		r.Selectors = []string{nodeSelector}
		d.agents[r.SPIFFEID], d.nodes[r.ParentID] = r.ParentID, r.SPIFFEID
	}
	if r.ID == "" {
		r.ID = r.Entry.id()
	}
	if _, ok := d.byID[r.ID]; ok {
		return errors.New("it stands there twice")
	}
	d.byID[r.ID] = r
	d.byWhat[r.what()] = r.ID
	d.children[r.ParentID] = append(d.children[r.ParentID], r.ID)
	return nil
}

func (d *directory) sort() {
	for _, ids := range d.children {
		slices.Sort(ids)
	}
	sum := sha256.New()
	for _, id := range d.ids() {
		fmt.Fprintln(sum, id, d.byID[id].Revision)
	}
	sum.Sum(d.revision[:0])
}

// what is the same for two entries that say the same of the same.
func (e Entry) what() [32]byte {
	selectors := slices.Sorted(slices.Values(e.Selectors))
	if e.isNode() {
		selectors = nil // it may or may not show nodeSelector by now
	}
	b, err := statement.Marshal([]any{e.SPIFFEID.String(), e.ParentID.String(), selectors})
	if err != nil {
		panic(err) // strings: always encodes
	}
	return sha256.Sum256(b)
}

// ids returns the IDs of all entries, sorted.
func (d *directory) ids() []string {
	out := make([]string, 0, len(d.byID))
	for id := range d.byID {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// reach returns the IDs of all entries that lead from holder down, sorted.
// Aliases are reached by whoever shows all their selectors.
func (d *directory) reach(holder spiffeid.ID, shows []string, now time.Time) []string {
	seen := map[string]bool{}
	var out []string
	todo := []spiffeid.ID{holder}
	take := func(id string) {
		if e := d.byID[id]; !seen[id] && !e.expired(now) {
			seen[id] = true
			out = append(out, id)
			todo = append(todo, e.SPIFFEID)
		}
	}
	if len(shows) > 0 {
		for _, id := range d.children[serverID(d.td)] {
			if subset(d.byID[id].Selectors, shows) {
				take(id)
			}
		}
	}
	for ; len(todo) > 0; todo = todo[1:] {
		for _, id := range d.children[todo[0]] {
			take(id)
		}
	}
	slices.Sort(out)
	return out
}

func subset(some, of []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(of, s) })
}

// node returns the entry that names the machine behind an agent ID.
func (d *directory) node(agent spiffeid.ID) (Entry, bool) {
	name, ok := d.nodes[agent]
	if !ok {
		return Entry{}, false
	}
	for _, id := range d.children[agent] {
		if e := d.byID[id]; e.SPIFFEID == name {
			return e.Entry, true
		}
	}
	return Entry{}, false
}

func serverID(td spiffeid.TrustDomain) spiffeid.ID {
	return spiffeid.RequireFromSegments(td, "spire", "server") // constant segments: always an ID
}
