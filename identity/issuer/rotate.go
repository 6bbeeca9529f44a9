package issuer

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// liveBucket is the book of live identities: "<authority>/<SPIFFE ID>" -> expiry of
// the newest SVID, Unix seconds in decimal.
const liveBucket = "issuer/live"

// retiredBucket remembers the roots that were retired here: authority ID -> when, as
// above. Trust records may name them for a while, beside other issuers' roots.
const retiredBucket = "issuer/retired"

func enter(tx *store.Tx, authority, id string, notAfter int64) error {
	key := []byte(authority + "/" + id)
	if before, err := strconv.ParseInt(string(tx.Get(liveBucket, key)), 10, 64); err == nil && before >= notAfter {
		return nil
	}
	return tx.Put(liveBucket, key, strconv.AppendInt(nil, notAfter, 10))
}

// book reads the lines whose keys begin with prefix: who is alive at now and
// when the last of them expires, and the keys of those who are not any more.
func book(tx *store.Tx, prefix string, now time.Time) (alive []string, last time.Time, dead [][]byte) {
	tx.Range(liveBucket, []byte(prefix), func(k, v []byte) bool {
		rest, ok := strings.CutPrefix(string(k), prefix)
		if !ok {
			return false
		}
		end, err := strconv.ParseInt(string(v), 10, 64)
		if err == nil && end <= now.Unix() {
			dead = append(dead, slices.Clone(k))
			return true
		}
		alive = append(alive, rest)
		if until := time.Unix(end, 0); err == nil && until.After(last) {
			last = until
		}
		return true
	})
	return alive, last, dead
}

// forget strikes out who is not alive any more.
func (s *Server) forget(now time.Time) error {
	var dead [][]byte
	err := s.cfg.Store.View(func(tx *store.Tx) error {
		_, _, dead = book(tx, "", now)
		return nil
	})
	if err != nil || len(dead) == 0 {
		return err
	}
	return s.cfg.Store.Update(func(tx *store.Tx) error {
		for _, k := range dead {
			end, err := strconv.ParseInt(string(tx.Get(liveBucket, k)), 10, 64)
			if err == nil && end > now.Unix() { // renewed since
				continue
			}
			if err := tx.Delete(liveBucket, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// Prepare makes a new authority, which is published at once and signs nothing.
func (s *Server) Prepare(k Kind) (Authority, error) {
	now := time.Now()
	var made authority
	err := s.rotate("prepare", k, "", func(a *authorities) (*authorities, error) {
		if _, ok := a.in(X509, Active); ok && a.upstream != nil && k == X509 {
			return nil, fmt.Errorf("%w: the root is nested: its upstream rotates it", ErrAuthority)
		}
		var err error
		if k == JWT {
			made, err = newJWT(now)
		} else {
			made, err = newRoot(s.cfg.CA.device, s.td, now)
		}
		if err != nil {
			return nil, err
		}
		return a.prepare(made)
	})
	made.State = Prepared
	return made.Authority, err
}

// Activate lets a prepared authority sign from now on. A root must be in the
// region's trust record first (ErrUnpublished), if the issuer knows records.
func (s *Server) Activate(k Kind, id string) (Authority, error) {
	err := s.rotate("activate", k, id, func(a *authorities) (*authorities, error) {
		b, err := a.activate(k, id, time.Now())
		if err != nil || k != X509 {
			return b, err
		}
		next := a.all[a.find(k, id)]
		if s.cfg.Trust != nil {
			r, ok := s.cfg.Trust.Record(s.td)
			if !ok || !slices.ContainsFunc(r.X509Roots, next.Certificate.Equal) {
				return nil, fmt.Errorf("%w: %s is not in version %d", ErrUnpublished, id, r.Version)
			}
		}
		return b, next.root.Tend(time.Now())
	})
	if err == nil {
		s.renewSelf()
	}
	return s.authority(k, id), err
}

// Taint tells all who hold what an old authority signed to renew at once. Agents
// learn it with their next bundle.
func (s *Server) Taint(k Kind, id string) (Authority, error) {
	err := s.rotate("taint", k, id, func(a *authorities) (*authorities, error) { return a.taint(k, id) })
	return s.authority(k, id), err
}

// Retire takes an authority out of the bundle and deletes its key. While an
// identity it signed is valid it refuses with ErrAuthorityInUse and says whose.
func (s *Server) Retire(k Kind, id string) (Authority, error) {
	before := s.authority(k, id)
	err := s.rotate("retire", k, id, func(a *authorities) (*authorities, error) {
		b, err := a.retire(k, id)
		if err != nil {
			return nil, err
		}
		var alive []string
		var last time.Time
		if err := s.cfg.Store.View(func(tx *store.Tx) error {
			alive, last, _ = book(tx, id+"/", time.Now())
			return nil
		}); err != nil {
			return nil, err
		}
		if n := len(alive); n > 0 {
			const named = 5
			text := strings.Join(alive[:min(n, named)], ", ")
			if n > named {
				text += fmt.Sprintf(" and %d more", n-named)
			}
			return nil, fmt.Errorf("%w: possible from %s, when the last of these has: %s", ErrAuthorityInUse, last.UTC().Format(time.RFC3339), text)
		}
		return b, nil
	})
	return before, err
}

// NextRoots returns what the region's next trust record has to name: the roots of this
// issuer, prepared and old ones too, and those that the record in force names of other
// issuers. What was retired here is left out. A nested issuer's are the upstream's
// alone.
func (s *Server) NextRoots(inForce []*x509.Certificate) ([]*x509.Certificate, error) {
	out := s.Roots()
	if s.cfg.Upstream != nil {
		return out, nil
	}
	others, err := s.ofOthers(inForce)
	return append(out, others...), err
}

// ofOthers returns the roots of a record that are not this issuer's, nor were.
func (s *Server) ofOthers(record []*x509.Certificate) (out []*x509.Certificate, err error) {
	own := s.cfg.CA.Bundle()
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		for _, c := range record {
			if !own.HasX509Authority(c) && tx.Get(retiredBucket, []byte(hex.EncodeToString(c.SubjectKeyId))) == nil {
				out = append(out, c)
			}
		}
		return nil
	})
	return out, err
}

// rotate makes one step and records it. What cannot be recorded is not done; the
// files are written last, so a step that then fails is in the trail and not done.
func (s *Server) rotate(what string, k Kind, id string, step func(*authorities) (*authorities, error)) error {
	return s.cfg.CA.change(func(a *authorities) (*authorities, error) {
		b, err := step(a)
		if err != nil {
			return nil, err
		}
		if id == "" { // a new one: the last
			id = b.all[len(b.all)-1].ID
		}
		err = s.cfg.Store.Update(func(tx *store.Tx) error {
			if k == X509 && b.find(k, id) < 0 {
				if err := tx.Put(retiredBucket, []byte(id), strconv.AppendInt(nil, time.Now().Unix(), 10)); err != nil {
					return err
				}
			}
			return leaf(tx, leafAdmin, adminLeaf{What: what + " " + string(k) + " authority", ID: id})
		})
		if err != nil {
			return nil, errors.Join(errors.New("cannot record it, so it is not done"), err)
		}
		return b, nil
	})
}

func (s *Server) authority(k Kind, id string) Authority {
	now := s.cfg.CA.now.Load()
	if i := now.find(k, id); i >= 0 {
		return now.all[i].Authority
	}
	return Authority{Kind: k, ID: id}
}

// renewSelf makes the issuer certify itself again at its next handshake.
func (s *Server) renewSelf() {
	s.self.Lock()
	defer s.self.Unlock()
	s.self.due = time.Time{}
}
