package app

import (
	"crypto/ecdsa"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// signedHead is the head of a trail of its own that a key signs, with a leaf that says which.
func signedHead(t *testing.T, id spiffeid.ID, key *ecdsa.PrivateKey, which int) (vkey string, head []byte) {
	t.Helper()
	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	if err := st.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.AdminAction, map[string]int{"which": which}) }); err != nil {
		t.Fatal(err)
	}
	tr, err := trail.Open(trail.Config{Dir: t.TempDir(), Node: id, Epoch: 3, Key: key, Store: st})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	vkey, head = tr.VerifierKey(), tr.Head().Raw
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	return vkey, head
}

func endorsed(t *testing.T, id spiffeid.ID, key *ecdsa.PublicKey, by *ecdsa.PrivateKey) []byte {
	t.Helper()
	pkix, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hash := statement.Digest(pkix)
	b, err := endorse.Sign(by, endorse.Endorsement{ID: id, AK: &p256(t).PublicKey, TrailKey: hash[:], Expires: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A node that shows two heads of one size is quarantined: by the witness that found it, and by
// everybody who gets the proof, from whomever. Where the evidence does not hold nobody is.
func TestForkedTrailConvicts(t *testing.T) {
	r := newTestRegion(t)
	set, record := r.set()
	key := p256(t)
	record.AuthorityKey = &key.PublicKey
	_, _, err := set.Apply(r.next(record), time.Now())
	r.must(err)

	id, own := spiffeid.RequireFromString("spiffe://east.dev.example/node/n7"), p256(t)
	vkey, first := signedHead(t, id, own, 1)
	_, second := signedHead(t, id, own, 2)
	proof := func(c witness.Conflict, endorsement []byte) []byte {
		b, err := witness.Accusation{Conflict: c, Endorsement: endorsement}.Encode()
		r.must(err)
		return b
	}
	good := endorsed(t, id, &own.PublicKey, key)
	fork := witness.Conflict{Key: vkey, First: first, Second: second}
	type judge struct {
		*standings
		st  *store.Store
		did quarantine.Effects
	}
	judges := func() (out [2]*judge) {
		for i := range out {
			log := slog.New(slog.DiscardHandler)
			j := &judge{st: openStore(t, filepath.Join(t.TempDir(), "state.db"))}
			j.standings = newStandings(newQuarantineSet(tdEast, newVerifier(set), newDirectory(nodeN1, set, &summary.Tracker{}, log)), j.st, log, nil)
			j.enforce = func(of spiffeid.ID, e quarantine.Effects) (was severed) {
				if of == id {
					j.did = e
				}
				return was
			}
			out[i] = j
		}
		return out
	}
	all := judges()
	for i, by := range []spiffeid.ID{{}, spiffeid.RequireFromString("spiffe://east.dev.example/node/n2")} {
		f, added, err := all[i].evidence(proof(fork, good), by)
		if err != nil || !added || f.Accused != id || f.Class != witness.Class || f.Epoch != 3 {
			t.Fatalf("%+v, %t, %v", f, added, err)
		}
		if st := all[i].set.Standing(id, time.Now()); st.Standing != quarantine.Quarantined || !all[i].did.FreezeFeed {
			t.Errorf("%s: %+v, %+v", by, st, all[i].did)
		}
		leaves, err := all[i].st.Outbox(0, 10)
		kinds := []string{}
		for _, l := range leaves {
			kinds = append(kinds, l.Kind)
		}
		if err != nil || !slices.Contains(kinds, trail.PeerFinding.Name()) || !slices.Contains(kinds, trail.PeerStanding.Name()) {
			t.Errorf("%v, %v", kinds, err)
		}
	}

	all = judges()
	thief := p256(t)
	theirs, one := signedHead(t, id, thief, 1)
	_, two := signedHead(t, id, thief, 2)
	for name, b := range map[string][]byte{
		"no TPM":            proof(fork, nil),
		"another authority": proof(fork, endorsed(t, id, &own.PublicKey, p256(t))),
		"one head":          proof(witness.Conflict{Key: vkey, First: first, Second: first}, good),
		"another key":       proof(witness.Conflict{Key: theirs, First: one, Second: two}, good),
	} {
		if f, _, err := all[0].evidence(b, spiffeid.ID{}); err == nil {
			t.Errorf("%s convicts %s", name, f.Accused)
		}
	}
	if st := all[0].set.Standing(id, time.Now()); st.Standing != quarantine.OK {
		t.Errorf("an honest node is %s", st.Standing)
	}
}

// Two objects of one slot and version are on record once, also after a restart.
func TestConflictIsRecordedOnce(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	c := authority.Conflict{
		Winner: authority.Signed{Object: authority.Object{Kind: authority.KindService, Name: "web.east", Version: 3}, Digest: [32]byte{1}},
		Loser:  authority.Signed{Digest: [32]byte{2}},
	}
	for range 3 {
		if err := st.Update(func(tx *store.Tx) error { return recordConflict(tx, c) }); err != nil {
			t.Fatal(err)
		}
	}
	leaves, err := st.Outbox(0, 10)
	if err != nil || len(leaves) != 1 || leaves[0].Kind != trail.AuthorityConflict.Name() {
		t.Errorf("%+v, %v", leaves, err)
	}
}
