package app

import (
	"crypto/ecdsa"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// twoStories is the proof that a key signed two first records of an epoch, and the name it goes by.
func twoStories(t *testing.T, origin spiffeid.ID, key *ecdsa.PrivateKey, cert []byte, keys feed.KeyFunc) (name string, proof []byte) {
	t.Helper()
	var said [2]feed.Signed
	for i := range said {
		ops := []feed.Op{{Key: feed.KeyOf(origin, feed.KindService, "s"), Action: feed.Put, Value: []byte{byte(i)}, Scope: feed.ScopeRegion}}
		body, err := statement.Marshal(ops)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := statement.Marshal(feed.Header{
			Kind: feed.Ops, Origin: origin.String(), Epoch: 1, Seq: 1, HLC: feed.NewHLC(time.Now()),
			Root: feed.OpsRoot(ops), Count: 1, Size: uint32(len(body)),
		})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := statement.Sign(key, statement.Type{Name: "record", Version: 1}, origin.TrustDomain().Name(), payload)
		if err != nil {
			t.Fatal(err)
		}
		if said[i], err = feed.ParseSigned(raw); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := said[0].ID(), said[1].ID(); string(a[:]) > string(b[:]) {
		said[0], said[1] = said[1], said[0]
	}
	proof, err := statement.Marshal(struct {
		Form  uint8  `cbor:"1,keyasint"`
		Cert  []byte `cbor:"2,keyasint"`
		First []byte `cbor:"3,keyasint"`
		Other []byte `cbor:"4,keyasint"`
	}{1, cert, said[0].Statement(), said[1].Statement()})
	if err != nil {
		t.Fatal(err)
	}
	found, err := feed.VerifyProof(proof, keys)
	if err != nil {
		t.Fatal(err)
	}
	return feed.EvidenceName(found.Digest), proof
}

// All that a node's mesh consists of, and all that drew it into theirs, keep from it what others say,
// a proof too. It hears of both all the same, by links that chance alone chose; nobody honest is held
// or convicted for what it could not hear.
func TestEclipse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 22
		const patience = 4 * farTerm // another link by chance each term; who promises and does not serve is waited for
		f := newFleet(t, size)
		defer f.close()
		time.Sleep(40 * time.Second)
		agree(t, f.nodes, 10*time.Second)
		victim := f.nodes[0]
		hostile := f.meshOf(victim, patience)
		var honest []*fleetNode
		for _, n := range f.nodes[1:] {
			if !hostile[n.id] {
				honest = append(honest, n)
			}
		}
		if len(hostile) < 6 || len(honest) < 2 {
			t.Fatalf("%d hostile and %d honest nodes make no eclipse", len(hostile), len(honest))
		}
		t.Logf("%d of %d others are hostile", len(hostile), size-1)
		f.withhold(func(from, to, origin spiffeid.ID) bool { return to == victim.id && origin != from && hostile[from] })
		writer, liar := honest[0], honest[1]
		t.Logf("what an honest node says is heard after %s", f.spreadWithin(patience, writer, []*fleetNode{victim}, "news"))

		f.mu.Lock()
		key := f.feeds[liar.id]
		key.Attested = true
		f.feeds[liar.id] = key
		f.mu.Unlock()
		shows := func(of *fleetNode) bool {
			e, ok := victim.replica.Get(feed.KeyOf(of.id, feed.KindNode, nodeName))
			return ok && !e.Suspect
		}
		name, proof := twoStories(t, liar.id, liar.key, key.Cert, f.epochKey)
		writer.put(t, feed.KindEvidence, name, proof)
		began := time.Now()
		for shows(liar) {
			if time.Sleep(10 * time.Millisecond); time.Since(began) > patience {
				t.Fatal("the proof is kept from it")
			}
		}
		t.Logf("the proof counts after %s", time.Since(began))
		for _, n := range f.nodes[1:] {
			if st := victim.peering.standing.of(n.id); n != liar && (st.Standing != quarantine.OK || !shows(n)) {
				t.Errorf("%s is thought guilty: %+v", n.id, st)
			}
		}
	})
}

// meshOf is everybody who is in a node's mesh, or has it in its own, for so long.
func (f *fleet) meshOf(of *fleetNode, span time.Duration) map[spiffeid.ID]bool {
	var members []replica.Member
	for _, n := range f.nodes {
		members = append(members, replica.Member{ID: n.id})
	}
	mesh := map[spiffeid.ID]bool{}
	for after := time.Duration(0); after <= span; after += time.Minute {
		at := time.Now().Add(after)
		for _, id := range replica.Draw(of.id, members, at) {
			mesh[id] = true
		}
		for _, m := range members {
			if slices.Contains(replica.Draw(m.ID, members, at), of.id) {
				mesh[m.ID] = true
			}
		}
	}
	return mesh
}
