package issuer

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const (
	entriesBucket = "issuer/entries"
	maxEntries    = 100_000
	maxEntryID    = 255 // bytes, as in SPIRE
)

var (
	errSame     = errors.New("an entry says the same already")
	errNoEntry  = errors.New("no such entry")
	errFileOnly = errors.New("the entry comes from a file: change it there")
	errApplied  = errors.New("the entry was applied: apply it anew, or delete it")
)

// storedEntry is an entry from the API, as kept in the store under its ID.
type storedEntry struct {
	SPIFFEID  string   `cbor:"1,keyasint"`
	ParentID  string   `cbor:"2,keyasint"`
	Selectors []string `cbor:"3,keyasint"`
	X509TTL   int64    `cbor:"4,keyasint"` // seconds, like JWTTTL
	JWTTTL    int64    `cbor:"5,keyasint"`
	Federates []string `cbor:"6,keyasint"`
	Expires   int64    `cbor:"7,keyasint"` // Unix seconds; 0: never
	DNSNames  []string `cbor:"8,keyasint"`
	Hint      string   `cbor:"9,keyasint"`
	Revision  int64    `cbor:"10,keyasint"`
	Created   int64    `cbor:"11,keyasint"`
	Class     string   `cbor:"12,keyasint,omitempty"`
}

func (r registered) put(tx *store.Tx) error {
	w := storedEntry{
		SPIFFEID: r.SPIFFEID.String(), ParentID: r.ParentID.String(), Selectors: r.Selectors, X509TTL: int64(r.X509TTL / time.Second),
		JWTTTL: int64(r.JWTTTL / time.Second), Federates: tdNames(r.FederatesWith), DNSNames: r.DNSNames, Hint: r.Hint,
		Revision: r.Revision, Created: r.Created.Unix(), Class: r.Class,
	}
	if r.isNode() {
		w.Selectors = nil
	}
	if !r.Expires.IsZero() {
		w.Expires = r.Expires.Unix()
	}
	b, err := statement.Marshal(w)
	if err != nil {
		return err
	}
	return tx.Put(entriesBucket, []byte(r.ID), b)
}

func readEntry(id string, b []byte) (registered, error) {
	var w storedEntry
	if err := statement.Unmarshal(b, &w); err != nil {
		return registered{}, err
	}
	r := registered{ID: id, Revision: w.Revision, Created: time.Unix(w.Created, 0), Entry: Entry{
		Selectors: w.Selectors, X509TTL: time.Duration(w.X509TTL) * time.Second, JWTTTL: time.Duration(w.JWTTTL) * time.Second,
		DNSNames: w.DNSNames, Hint: w.Hint, Class: w.Class,
	}}
	var err error
	if r.SPIFFEID, err = spiffeid.FromString(w.SPIFFEID); err != nil {
		return r, err
	}
	if r.ParentID, err = spiffeid.FromString(w.ParentID); err != nil {
		return r, err
	}
	for _, name := range w.Federates {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return r, err
		}
		r.FederatesWith = append(r.FederatesWith, td)
	}
	if w.Expires != 0 {
		r.Expires = time.Unix(w.Expires, 0)
	}
	return r, nil
}

// SetEntries replaces the entries of files, or none if one of them cannot be; the
// error names each, and matches ErrEntry. Files win: an entry of the API that
// contradicts them is out of force, and logged.
func (s *Server) SetEntries(entries []Entry) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var d *directory
	err := s.cfg.Store.View(func(tx *store.Tx) (err error) {
		d, err = s.index(tx, entries)
		return err
	})
	if err != nil {
		return err
	}
	s.files = entries
	s.entries.Store(d)
	return nil
}

// index builds the directory of the files' entries and those in the store.
func (s *Server) index(tx *store.Tx, files []Entry) (*directory, error) {
	stored, err := readEntries(tx)
	if err != nil {
		return nil, err
	}
	return s.indexOf(stored, files)
}

func (s *Server) indexOf(stored []registered, files []Entry) (*directory, error) {
	d, err := newDirectory(s.td, files)
	if err != nil {
		return nil, err
	}
	for _, r := range stored {
		if refused := d.take(r); refused != nil {
			s.log.Warn("entry of the API is out of force: files contradict it", "entry", r.ID, "id", r.SPIFFEID, "err", refused)
		}
	}
	d.sort()
	return d, nil
}

// edit is a change of entries through the API: it says what to do with each, and
// gets the answer for each. All that can be done is done in one transaction.
type edit struct {
	do   func(tx *store.Tx, d *directory) (registered, error)
	done registered
	err  error
}

// change makes edits. The error means that none was made.
func (s *Server) change(what string, edits []*edit) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var d *directory
	err := s.cfg.Store.Update(func(tx *store.Tx) (err error) {
		if d, err = s.index(tx, s.files); err != nil {
			return err
		}
		for _, e := range edits {
			if e.done, e.err = e.do(tx, d); e.err != nil {
				continue
			}
			if err := leaf(tx, leafAdmin, adminLeaf{What: what, Entry: e.done.ID, ID: e.done.SPIFFEID.String(), Parent: e.done.ParentID.String()}); err != nil {
				return err
			}
		}
		d, err = s.index(tx, s.files)
		return err
	})
	if err == nil {
		s.entries.Store(d)
	}
	return err
}

// create returns an edit that adds e, under the ID given or a new one.
func (s *Server) create(id string, e Entry, now time.Time) *edit {
	return &edit{do: func(tx *store.Tx, d *directory) (registered, error) {
		if other, ok := d.byWhat[e.what()]; ok {
			return d.byID[other], errSame
		}
		if len(d.byID) >= s.maxEntries {
			return registered{}, fmt.Errorf("%w: there are %d already", ErrEntry, s.maxEntries)
		}
		if id == "" {
			random := make([]byte, 16)
			rand.Read(random) // crypto/rand does not fail
			id = hex.EncodeToString(random)
		}
		if len(id) > maxEntryID || strings.HasPrefix(id, fileID) || strings.HasPrefix(id, applyID) || strings.ContainsFunc(id, notInID) {
			return registered{}, fmt.Errorf("%w: ID %q: want up to %d letters, digits, dots, dashes and underscores, not beginning with %s or %s", ErrEntry, id, maxEntryID, fileID, applyID)
		}
		if tx.Get(entriesBucket, []byte(id)) != nil {
			return d.byID[id], errSame
		}
		r := registered{ID: id, Entry: e, Created: now.Truncate(time.Second)}
		if err := d.add(r); err != nil {
			return r, fmt.Errorf("%w: %w", ErrEntry, err)
		}
		return d.byID[id], r.put(tx)
	}}
}

// update returns an edit that makes another entry of one of the API.
func (s *Server) update(id string, alter func(*Entry) error) *edit {
	return &edit{do: func(tx *store.Tx, d *directory) (registered, error) {
		r, err := stored(tx, d, id)
		if err == nil && r.applied() {
			err = errApplied
		}
		if err != nil {
			return r, err
		}
		before := r
		r.Revision++
		if err := alter(&r.Entry); err != nil {
			return r, err
		}
		if err := r.put(tx); err != nil {
			return r, err
		}
		// What stands in the store now must be without contradiction.
		fresh, err := s.index(tx, s.files)
		if err != nil {
			return r, err
		}
		if got, ok := fresh.byID[id]; ok {
			*d = *fresh
			return got, nil
		}
		if err := before.put(tx); err != nil {
			return r, err
		}
		if err := r.check(s.td); err != nil {
			return r, fmt.Errorf("%w: %w", ErrEntry, err)
		}
		return r, fmt.Errorf("%w: it contradicts another entry", ErrEntry)
	}}
}

// remove returns an edit that takes an entry of the API away.
func (s *Server) remove(id string) *edit {
	return &edit{do: func(tx *store.Tx, d *directory) (registered, error) {
		r, err := stored(tx, d, id)
		if err != nil {
			return r, err
		}
		return r, tx.Delete(entriesBucket, []byte(id))
	}}
}

// stored finds an entry that the API may change.
func stored(tx *store.Tx, d *directory, id string) (registered, error) {
	if r, ok := d.byID[id]; ok && r.fromFile() {
		return r, errFileOnly
	}
	b := tx.Get(entriesBucket, []byte(id))
	if id == "" || b == nil {
		return registered{}, errNoEntry
	}
	return readEntry(id, b)
}

func notInID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

func editRefused(err error) func(*store.Tx, *directory) (registered, error) {
	return func(*store.Tx, *directory) (registered, error) { return registered{}, err }
}
