package app

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

const conflictsBucket = "authority/conflicts" // digest of the loser -> nothing: it has a leaf

// recordConflicts records, once each, that two signed objects of one slot and version met.
// Only followState calls it.
func (a *App) recordConflicts(td spiffeid.TrustDomain) {
	for _, c := range a.dir.book(td).Conflicts() {
		if a.conflicts[c.Loser.Digest] {
			continue
		}
		if err := a.store.Update(func(tx *store.Tx) error { return recordConflict(tx, c) }); err != nil {
			a.log.Warn("a conflict between authority objects could not be recorded", "kind", c.Winner.Kind, "name", c.Winner.Name, "err", err)
			return
		}
		if a.conflicts == nil {
			a.conflicts = map[[32]byte]bool{}
		}
		a.conflicts[c.Loser.Digest] = true
	}
}

func recordConflict(tx *store.Tx, c authority.Conflict) error {
	if tx.Get(conflictsBucket, c.Loser.Digest[:]) != nil {
		return nil
	}
	if err := tx.Put(conflictsBucket, c.Loser.Digest[:], []byte{}); err != nil {
		return err
	}
	w, l := c.Winner, c.Loser
	return trail.Append(tx, trail.AuthorityConflict, map[string]any{
		"kind": string(w.Kind), "name": w.Name, "level": w.Level.String(), "version": w.Version, "winner": w.Digest[:], "loser": l.Digest[:],
	})
}
