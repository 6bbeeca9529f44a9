package casefile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

var suspect = spiffeid.RequireFromString(accused)

// court is a region as its trust record names it.
type court struct {
	global, authority *ecdsa.PrivateKey
	root              *epoch.Root
	record            []byte
}

func signer(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func newCourt(t testing.TB, global *ecdsa.PrivateKey) court {
	t.Helper()
	c := court{global: global, authority: signer(t)}
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	key := signer(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "east"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: from, NotAfter: from.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	ca, err := x509.ParseCertificate(der)
	must(t, err)
	c.root, err = epoch.NewRoot(node.TrustDomain(), from)
	must(t, err)
	signed, err := trust.Sign(trust.Record{
		Region: "east", TrustDomain: node.TrustDomain(), X509Roots: []*x509.Certificate{ca}, RecordRoots: []*x509.Certificate{c.root.Certificate()},
		AuthorityKey: &c.authority.PublicKey, PolicyKey: &key.PublicKey, Version: 1, NotBefore: from, NotAfter: from.Add(24 * time.Hour),
	}, c.global)
	must(t, err)
	c.record, err = trust.Join(signed)
	must(t, err)
	return c
}

// believed is the trust file of somebody who knows the global keys alone.
func (c court) believed(t testing.TB) casefile.Trust {
	t.Helper()
	believes, err := casefile.NewTrust([]*ecdsa.PublicKey{&c.global.PublicKey}, 1)
	must(t, err)
	b, err := believes.Encode()
	must(t, err)
	believes, err = casefile.ParseTrust(b)
	must(t, err)
	return believes
}

func (c court) endorse(t testing.TB, id spiffeid.ID, key *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	must(t, err)
	hash := statement.Digest(der)
	b, err := endorse.Sign(c.authority, endorse.Endorsement{
		ID: id, AK: &signer(t).PublicKey, TrailKey: hash[:], Expires: time.Now().Add(24 * time.Hour).Truncate(time.Second),
	})
	must(t, err)
	return b
}

// writer signs what it likes; the suspect does.
type writer struct {
	t    testing.TB
	of   spiffeid.ID
	key  *ecdsa.PrivateKey
	cert []byte
}

func (c court) writer(t testing.TB, class string) writer {
	t.Helper()
	w := writer{t: t, of: suspect, key: signer(t)}
	approved, err := c.root.Check(epoch.Request{ID: suspect, Epoch: 2, Class: class, Key: &w.key.PublicKey, Now: time.Now()})
	must(t, err)
	w.cert, err = c.root.Issue(approved)
	must(t, err)
	return w
}

func (w writer) sign(seq uint64, prev feed.ID, at time.Time, ops ...feed.Op) feed.Record {
	w.t.Helper()
	body, err := statement.Marshal(ops)
	must(w.t, err)
	h := feed.Header{
		Kind: feed.Ops, Origin: w.of.String(), Epoch: 2, Seq: seq, Prev: prev, HLC: feed.NewHLC(at),
		Root: feed.OpsRoot(ops), Count: uint16(len(ops)), Size: uint32(len(body)),
	}
	payload, err := statement.Marshal(h)
	must(w.t, err)
	st, err := statement.Sign(w.key, statement.Type{Name: "record", Version: 1}, w.of.TrustDomain().Name(), payload)
	must(w.t, err)
	b, err := statement.Marshal(struct {
		Statement []byte `cbor:"1,keyasint"`
		Body      []byte `cbor:"2,keyasint"`
	}{st, body})
	must(w.t, err)
	rec, err := feed.Parse(b)
	must(w.t, err)
	return rec
}

// proof is what a node that is given the records makes of them.
func (w writer) proof(recs ...feed.Record) []byte {
	w.t.Helper()
	held := map[uint64][]byte{}
	chain := feed.NewChain(suspect, feed.DefaultKinds(), func(_ feed.FeedID, seq uint64) []byte { return held[seq] })
	must(w.t, chain.SetKey(feed.EpochKey{
		Origin: suspect, Epoch: 2, Key: &w.key.PublicKey, Class: "node", Attested: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), Cert: w.cert,
	}))
	for _, rec := range recs {
		res := chain.Admit(time.Now(), rec)
		if res.Proof != nil {
			return res.Proof
		}
		held[rec.Seq] = rec.Statement()
	}
	w.t.Fatal("the records prove nothing")
	return nil
}

func put(key, value string) feed.Op {
	return feed.Op{Key: key, Action: feed.Put, Value: []byte(value), Scope: feed.ScopeRegion}
}

// forkedTrail is an accusation of two heads of one size.
func (c court) forkedTrail(t testing.TB) []byte {
	t.Helper()
	key := signer(t)
	conflict := witness.Conflict{}
	for i, head := range []*[]byte{&conflict.First, &conflict.Second} {
		st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
		must(t, err)
		must(t, st.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.AdminAction, map[string]int{"which": i}) }))
		tr, err := trail.Open(trail.Config{Dir: t.TempDir(), Node: suspect, Epoch: 2, Key: key, Store: st, Every: time.Hour})
		must(t, err)
		must(t, tr.Flush(t.Context()))
		*head, conflict.Key = tr.Head().Raw, tr.VerifierKey()
		must(t, tr.Close())
		must(t, st.Close())
	}
	b, err := witness.Accusation{Conflict: conflict, Endorsement: c.endorse(t, suspect, &key.PublicKey)}.Encode()
	must(t, err)
	return b
}

// file is a case file of a node that recorded the finding, and keeps the evidence.
func (c court) file(t testing.TB, class string, digest [32]byte, evidence ...[]byte) []byte {
	t.Helper()
	key, state := signer(t), t.TempDir()
	st, err := store.Open(filepath.Join(state, "state.db"))
	must(t, err)
	defer st.Close()
	tr, err := trail.Open(trail.Config{
		Dir: filepath.Join(state, "trail"), Node: node, Epoch: 1, Key: key, Protection: "tpm", Endorsement: c.endorse(t, node, &key.PublicKey), Store: st, Every: time.Hour,
	})
	must(t, err)
	must(t, st.Update(func(tx *store.Tx) error {
		return trail.Append(tx, trail.PeerFinding, map[string]any{"accused": accused, "class": class, "digest": digest[:], "epoch": 2, "carried_by": ""})
	}))
	must(t, tr.Flush(t.Context()))
	must(t, tr.Close())
	file, err := audit.Collect(t.Context(), []string{filepath.Join(state, "trail")}, casefile.Question{Case: hex.EncodeToString(digest[:6])})
	must(t, err)
	file.Trust, file.Evidence = [][]byte{c.record}, evidence
	file.Manifest.MadeAt, file.Manifest.MadeBy = time.Now().UTC().Truncate(time.Second), "test"
	b, err := casefile.Write(file)
	must(t, err)
	return b
}

// What a case file shows of somebody's guilt, to a reader who has nothing but the global keys.
func TestJudgement(t *testing.T) {
	t.Parallel()
	c := newCourt(t, signer(t))
	w, soft := c.writer(t, "node"), c.writer(t, "unattested")
	own, foreign := feed.KeyOf(suspect, "x-state", "a"), feed.KeyOf(node, "x-state", "a")
	now := time.Now()
	first := w.sign(1, feed.ID{}, now, put(own, "1"))
	equivocation := w.proof(first, w.sign(1, feed.ID{}, now, put(own, "2")))
	digestOf := func(proof []byte) (d [32]byte) {
		if a, err := witness.ParseAccusation(proof); err == nil {
			return a.Digest()
		}
		f, err := feed.VerifyProof(proof, func([]byte) (feed.EpochKey, error) {
			return feed.EpochKey{Key: &w.key.PublicKey, Attested: true, NotAfter: now.Add(time.Hour), Origin: suspect, Epoch: 2}, nil
		})
		must(t, err)
		return f.Digest
	}
	trailFork := c.forkedTrail(t)
	softFork := soft.proof(soft.sign(1, feed.ID{}, now, put(own, "1")), soft.sign(1, feed.ID{}, now, put(own, "2")))
	softDigest := func() [32]byte {
		f, err := feed.VerifyProof(softFork, func([]byte) (feed.EpochKey, error) {
			return feed.EpochKey{Key: &soft.key.PublicKey, NotAfter: now.Add(time.Hour), Origin: suspect, Epoch: 2}, nil
		})
		must(t, err)
		return f.Digest
	}()
	slander := c.slander(t, w)
	other := newCourt(t, c.global) // the region with another record root
	bent := slices.Clone(equivocation)
	bent[len(bent)-1] ^= 1
	for name, tt := range map[string]struct {
		file  []byte
		class string // convicted of; empty: nobody is
		shows string // what the reader is told
		err   error
	}{
		"equivocation":     {c.file(t, feed.ClassEquivocation, digestOf(equivocation), equivocation), feed.ClassEquivocation, "record 1 of epoch 2", nil},
		"clock-back":       {prove(t, c, w.proof(first, w.sign(2, first.ID(), now.Add(-time.Second), put(own, "2"))), feed.ClassClockBack, digestOf), feed.ClassClockBack, "record 2 of epoch 2", nil},
		"foreign-key":      {prove(t, c, w.proof(w.sign(1, feed.ID{}, now, put(own, "1"), put(foreign, "2"))), feed.ClassForeignKey, digestOf), feed.ClassForeignKey, "op 1 of it writes /node/n1/x-state/a", nil},
		"false-accusation": {c.file(t, feed.ClassFalseAccusation, slander.digest, slander.proof), feed.ClassFalseAccusation, "is against " + node.String(), nil},
		"trail-fork":       {c.file(t, witness.Class, digestOf(trailFork), trailFork), witness.Class, "a head of 3 leaves", nil},
		"no TPM":           {c.file(t, feed.ClassForkUnattested, softDigest, softFork), "", "", casefile.ErrNotGuilty},
		"no evidence":      {c.file(t, feed.ClassEquivocation, digestOf(equivocation)), "", "", casefile.ErrNoProof},
		"a bent proof":     {c.file(t, feed.ClassEquivocation, digestOf(equivocation), bent), "", "", feed.ErrProof},
		"a foreign root":   {other.file(t, feed.ClassEquivocation, digestOf(equivocation), equivocation), "", "", feed.ErrUncheckable},
		"another finding":  {c.file(t, feed.ClassEquivocation, [32]byte{1}, equivocation), "", "", casefile.ErrEntry},
	} {
		r, err := casefile.Verify(tt.file, c.believed(t))
		must(t, err)
		v := r.Judgement()
		if tt.class == "" {
			if v.Good || !errors.Is(v.Err, tt.err) {
				t.Errorf("%s: %s, want %v", name, v, tt.err)
			}
			continue
		}
		if !v.Good || len(r.Proofs) != 1 {
			t.Errorf("%s: %s", name, v)
			continue
		}
		p := r.Proofs[0]
		if p.Accused != accused || p.Class != tt.class || !p.Convicts || p.Rule == "" || p.Epoch != 2 || !strings.Contains(strings.Join(p.Shown, "\n"), tt.shows) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	// Nothing of the file is believed because it is in the file.
	good := c.file(t, feed.ClassEquivocation, digestOf(equivocation), equivocation)
	if r, err := casefile.Verify(good, newCourt(t, signer(t)).believed(t)); err != nil || r.Judgement().Good {
		t.Errorf("under other global keys: %s, %v", r.Judgement(), err)
	}
	if len(good) > 32<<10 {
		t.Errorf("the case file has %d bytes", len(good))
	}
}

// slander is the proof that the suspect called two honest records of another contradictory.
func (c court) slander(t *testing.T, w writer) (out struct {
	proof  []byte
	digest [32]byte
}) {
	t.Helper()
	victim := writer{t: t, key: signer(t), of: node}
	approved, err := c.root.Check(epoch.Request{ID: node, Epoch: 2, Class: "node", Key: &victim.key.PublicKey, Now: time.Now()})
	must(t, err)
	victim.cert, err = c.root.Issue(approved)
	must(t, err)
	now := time.Now()
	first := victim.sign(1, feed.ID{}, now, put(feed.KeyOf(node, "x-state", "a"), "1"))
	second := victim.sign(2, first.ID(), now.Add(time.Millisecond), put(feed.KeyOf(node, "x-state", "a"), "2"))
	evidence, err := statement.Marshal(map[int]any{1: uint8(1), 2: victim.cert, 3: first.Statement(), 4: second.Statement()})
	must(t, err)
	keys := func(der []byte) (feed.EpochKey, error) {
		k := feed.EpochKey{Origin: suspect, Epoch: 2, Key: &w.key.PublicKey, Attested: true, NotAfter: now.Add(time.Hour), Cert: w.cert}
		if slices.Equal(der, victim.cert) {
			k.Origin, k.Key, k.Cert = node, &victim.key.PublicKey, victim.cert
		}
		return k, nil
	}
	key, err := keys(w.cert)
	must(t, err)
	rec := w.sign(1, feed.ID{}, now, put(feed.KeyOf(suspect, feed.KindEvidence, feed.EvidenceName([32]byte{1})), string(evidence)))
	proof, ok := feed.Accusation(rec, 0, key, keys)
	if !ok {
		t.Fatal("the accusation is not shown to be false")
	}
	f, err := feed.VerifyProof(proof, keys)
	must(t, err)
	out.proof, out.digest = proof, f.Digest
	return out
}

func prove(t *testing.T, c court, proof []byte, class string, digestOf func([]byte) [32]byte) []byte {
	t.Helper()
	return c.file(t, class, digestOf(proof), proof)
}

// Of a case file that convicts, no other bytes convict somebody else.
func FuzzJudgement(f *testing.F) {
	c := newCourt(f, signer(f))
	w := c.writer(f, "node")
	own := feed.KeyOf(suspect, "x-state", "a")
	proof := w.proof(w.sign(1, feed.ID{}, time.Now(), put(own, "1")), w.sign(1, feed.ID{}, time.Now(), put(own, "2")))
	found, err := feed.VerifyProof(proof, func([]byte) (feed.EpochKey, error) {
		return feed.EpochKey{Key: &w.key.PublicKey, Attested: true, NotAfter: time.Now().Add(time.Hour), Origin: suspect, Epoch: 2}, nil
	})
	must(f, err)
	good, believes := c.file(f, feed.ClassEquivocation, found.Digest, proof), c.believed(f)
	f.Add(good, 0, byte(0))
	f.Add(good, len(good)/2, byte(1))
	f.Fuzz(func(t *testing.T, in []byte, at int, with byte) {
		if n := len(in); n > 0 && at >= 0 {
			in = slices.Clone(in)
			in[at%n] ^= with
		}
		r, err := casefile.Verify(in, believes)
		if err != nil || !r.Judgement().Good {
			return
		}
		for _, p := range r.Proofs {
			if p.Convicts && p.Accused != accused {
				t.Errorf("%s is convicted of %s", p.Accused, p.Class)
			}
		}
	})
}
