package feed

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// accusing is a record of the accuser with evidence among other ops, and the evidence's place.
func accusing(t testing.TB, accuser life, evidence []byte) (Record, int) {
	t.Helper()
	key := KeyOf(n2, KindEvidence, EvidenceName([32]byte{7}))
	return forge(t, accuser, Header{Seq: 4, Prev: ID{1}, HLC: NewHLC(t0)}, put(KeyOf(n2, KindService, "a"), "1"), put(key, string(evidence)), put(KeyOf(n2, KindService, "b"), "2")), 1
}

func encoded(t testing.TB, p proof) []byte {
	t.Helper()
	b, err := statement.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Evidence that shows nothing, on any version, convicts who signed it; and with what was signed alone.
func TestFalseAccusation(t *testing.T) {
	victim, thief, accuser := newLife(t, n1, 1, true), newLife(t, n1, 1, true), newLife(t, n2, 3, true)
	recs := write(t, victim, t0, 4)
	_, a, b := fork(t, thief)
	if bytes.Compare(a.id[:], b.id[:]) > 0 {
		a, b = b, a
	}
	for name, p := range map[string]proof{
		"another key's headers": {Form: formPair, Cert: victim.Cert, First: a.Statement(), Second: b.Statement()},
		"honest neighbours":     {Form: formPair, Cert: victim.Cert, First: recs[1].Statement(), Second: recs[2].Statement()},
		"two epochs":            {Form: formPair, Cert: victim.Cert, First: recs[1].Statement(), Second: write(t, newLife(t, n1, 2, true), t0, 2)[1].Statement()},
	} {
		rec, i := accusing(t, accuser, encoded(t, p))
		proof, ok := Accusation(rec, i, accuser.EpochKey, keyFunc)
		if !ok {
			t.Errorf("%s: not shown", name)
			continue
		}
		f := finding(t, proof)
		if f.Accused != n2 || f.Class != ClassFalseAccusation || f.Epoch != 3 || f.LastGood != 3 || !f.Convicts() {
			t.Errorf("%s: %+v", name, f)
		}
		if against, why, ok := AccusedFalsely(proof, keyFunc); !ok || against != n1.String() || why == "" {
			t.Errorf("%s: against %q, %q", name, against, why)
		}
		if err := DefaultKinds()[KindEvidence](EvidenceName(f.Digest), proof); err != nil {
			t.Errorf("%s: as a value: %v", name, err)
		}
	}
}

// Whoever brings evidence that holds, or that some version may find to hold, is not guilty of it.
func TestTrueAccusation(t *testing.T) {
	victim, soft, accuser := newLife(t, n1, 1, true), newLife(t, n1, 5, false), newLife(t, n2, 3, true)
	recs := write(t, victim, t0, 4)
	pair := func(l life) []byte {
		_, a, b := fork(t, l)
		if bytes.Compare(a.id[:], b.id[:]) > 0 {
			a, b = b, a
		}
		return encoded(t, proof{Form: formPair, Cert: l.Cert, First: a.Statement(), Second: b.Statement()})
	}
	honest := encoded(t, proof{Form: formPair, Cert: victim.Cert, First: recs[1].Statement(), Second: recs[2].Statement()})
	made := func(evidence []byte) proof { // as a hostile node would make it
		rec, i := accusing(t, accuser, evidence)
		return proof{Form: formFalse, Cert: accuser.Cert, First: rec.Statement(), Index: uint16(i), Body: rec.body}
	}
	strange := func(der []byte) (EpochKey, error) {
		if bytes.Equal(der, victim.Cert) {
			return EpochKey{}, errors.New("no such root")
		}
		return keyFunc(der)
	}
	late := func(der []byte) (EpochKey, error) {
		k, err := keyFunc(der)
		if bytes.Equal(der, victim.Cert) {
			k.NotAfter = t0.Add(-time.Hour)
		}
		return k, err
	}
	for name, tt := range map[string]struct {
		evidence []byte
		keys     KeyFunc
	}{
		"it holds":                           {pair(victim), keyFunc},
		"it freezes only":                    {pair(soft), keyFunc},
		"a certificate that is unknown here": {honest, strange},
		"after the certificate's end":        {pair(victim), late},
		"a form of a newer version":          {encoded(t, proof{Form: 9, Cert: victim.Cert, First: recs[1].Statement()}), keyFunc},
		"no proof at all":                    {[]byte("guilty"), keyFunc},
		"headers the other way round":        {encoded(t, proof{Form: formPair, Cert: victim.Cert, First: recs[2].Statement(), Second: recs[1].Statement()}), keyFunc},
		"an accusation of an accuser":        {encoded(t, made(pair(victim))), keyFunc},
		"a header that no version can read":  {encoded(t, proof{Form: formPair, Cert: victim.Cert, First: recs[1].Statement(), Second: []byte{1}}), keyFunc},
	} {
		rec, i := accusing(t, accuser, tt.evidence)
		if proof, ok := Accusation(rec, i, accuser.EpochKey, tt.keys); ok {
			t.Errorf("%s: %+v", name, finding(t, proof))
		}
		if f, err := VerifyProof(encoded(t, made(tt.evidence)), tt.keys); err == nil {
			t.Errorf("%s: made up: %+v", name, f)
		}
	}
	// Nor by what it did not sign as evidence.
	for name, change := range map[string]func(*proof){
		"another's header": func(p *proof) { p.First = recs[1].Statement() },
		"another key's":    func(p *proof) { p.Cert = victim.Cert },
		"another op":       func(p *proof) { p.Index = 0 },
		"an op it lacks":   func(p *proof) { p.Index = 3 },
		"another's body":   func(p *proof) { p.Body = recs[1].body },
		"with a second":    func(p *proof) { p.Second = recs[1].Statement() },
	} {
		p := made(honest)
		if f, err := VerifyProof(encoded(t, p), keyFunc); err != nil || f.Accused != n2 {
			t.Fatalf("as it is: %+v, %v", f, err)
		}
		change(&p)
		if f, err := VerifyProof(encoded(t, p), keyFunc); err == nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
