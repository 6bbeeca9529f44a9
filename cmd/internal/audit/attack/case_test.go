package attack

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/beside"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// auditor is one who knows the global keys alone, and what the region issues certificates with.
type auditor struct {
	believes casefile.Trust
	record   []byte // the region's trust record
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey // of the CA
	root     *epoch.Root
}

func (r *region) auditor() auditor {
	t, td := r.t, r.nodes[0].id.TrustDomain()
	t.Helper()
	global, key := signingKey(t), signingKey(t)
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	root, err := epoch.NewRoot(td, from)
	must(t, err)
	a := auditor{ca: authorityOf(t, key, from), key: key, root: root}
	signed, err := trust.Sign(trust.Record{
		Region: "east", TrustDomain: td, X509Roots: []*x509.Certificate{a.ca}, RecordRoots: []*x509.Certificate{root.Certificate()},
		AuthorityKey: &r.authority.PublicKey, PolicyKey: &key.PublicKey, Version: 1, NotBefore: from, NotAfter: from.Add(24 * time.Hour),
	}, global)
	must(t, err)
	a.record, err = trust.Join(signed)
	must(t, err)
	a.believes, err = casefile.NewTrust([]*ecdsa.PublicKey{&global.PublicKey}, 1)
	must(t, err)
	b, err := a.believes.Encode()
	must(t, err)
	a.believes, err = casefile.ParseTrust(b)
	must(t, err)
	return a
}

// authorityOf is a CA certificate for SVIDs of the region.
func authorityOf(t *testing.T, key *ecdsa.PrivateKey, from time.Time) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "east"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: from, NotAfter: from.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	ca, err := x509.ParseCertificate(der)
	must(t, err)
	return ca
}

// whole finds the case of all leaves of some folder of trails good.
func (a auditor) whole(t *testing.T, dir string) casefile.Report {
	t.Helper()
	rep := a.finds(t, dir)
	if !rep.Good() {
		t.Fatalf("%s; %s", rep.Integrity, rep.Completeness)
	}
	return rep
}

// finds is what the auditor makes of it.
func (a auditor) finds(t *testing.T, dir string) casefile.Report {
	t.Helper()
	rep, err := casefile.Verify(a.file(t, dir), a.believes)
	must(t, err)
	return rep
}

// file is the case file of all leaves.
func (a auditor) file(t *testing.T, dir string) []byte {
	t.Helper()
	c, err := audit.Collect(t.Context(), []string{dir}, casefile.Question{From: time.Unix(0, 0).UTC(), To: time.Now().Add(time.Hour).UTC()})
	must(t, err)
	if a.record != nil {
		c.Trust = [][]byte{a.record}
	}
	c.Manifest.MadeAt, c.Manifest.MadeBy = time.Now().UTC().Truncate(time.Second), "test"
	b, err := casefile.Write(c)
	must(t, err)
	return b
}

// A node signs another history for somebody who was not there. It makes up the roster, the keys
// of its witnesses and their cosignatures.
func TestForgedWitnesses(t *testing.T) {
	simulated(t, func(t *testing.T, r *region) {
		auditor := r.auditor()
		n := r.nodes[0]
		began := time.Now()
		n.await(n.record(3))
		early := time.Now()
		time.Sleep(25 * time.Minute)
		n.await(n.record(3))
		honest := auditor.whole(t, n.dir())
		w := honest.Trails[0].Witnessed
		if !w.Good || w.Size != w.Of || len(w.By) < witness.Quorum || w.Seen.Before(early) {
			t.Fatalf("the honest one: %+v", w)
		}
		// What was recorded before is shown to have been there by then, the rest not.
		for _, f := range honest.Facts {
			if f.Seen.IsZero() || f.Seen.Before(f.At.Truncate(time.Second)) || f.Seen.After(f.At.Add(trail.SeenEvery)) || f.At.Before(began) && f.Seen.After(early) {
				t.Errorf("leaf %d of %s was seen by %s", f.Index, f.At, f.Seen)
			}
		}
		c, err := casefile.Read(auditor.file(t, n.dir()))
		must(t, err)
		page, err := casefile.Page(c)
		must(t, err)
		wants := []string{fmt.Sprintf("0 to %d", w.Size-1), "seen by " + w.Seen.Format(time.TimeOnly)}
		for _, by := range w.By {
			wants = append(wants, fmt.Sprintf("%s at %s", by.Witness, by.At.UTC().Format(time.TimeOnly)))
		}
		for _, want := range wants {
			if !strings.Contains(string(page), want) {
				t.Errorf("the report lacks %q", want)
			}
		}

		var members []witness.Member
		keys := map[string]*witness.Key{}
		var shown [][]byte
		for i, p := range r.nodes {
			key, err := witness.NewKey(p.id, [32]byte{byte(i), 7})
			must(t, err)
			keys[p.id.String()], members = key, append(members, witness.Member{ID: p.id, Key: key.Verifier()})
			says, err := witnessing.NewRecord(signingKey(t), p.origin(), key.Verifier(), p.endorsement, began)
			must(t, err)
			b, err := says.Encode()
			must(t, err)
			shown = append(shown, b)
		}
		roster, err := witness.NewRoster(members)
		must(t, err)
		find := func(h [32]byte) (witness.Roster, bool) { return roster, h == roster.Hash() }
		dir, head := madeUp(t, n, 1, n.key, roster.Hash())
		for _, m := range roster.Choose(n.id) {
			st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
			must(t, err)
			liar := witness.New(witness.Config{
				Self: m.ID, Key: keys[m.ID.String()], Store: st, Now: time.Now, Roster: find,
				Log: func(string) (witness.Log, bool) { return witness.Log{Owner: n.id, Key: n.vkey()}, true },
			})
			a := liar.Add(n.id, witness.Request{Head: head.Raw}.Encode())
			if a.Status != 200 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			head.Raw = witness.Assemble(head.Raw, a.Body)
			must(t, st.Close())
		}
		if v := witness.Judge(head, find); !v.Good {
			t.Fatalf("the forgery is none: %+v", v)
		}
		for path, b := range map[string][]byte{
			filepath.Join("1", trail.WitnessedPath):                                head.Raw,
			filepath.Join("1", "checkpoint"):                                       head.Raw,
			filepath.Join(witnessing.RostersDir, fmt.Sprintf("%x", roster.Hash())): roster.Bytes(),
		} {
			path = filepath.Join(dir, path)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, b, 0o644))
		}
		for i, m := range members {
			path := witnessing.KeyPath(dir, m.Key)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, shown[i], 0o644))
		}
		forged := auditor.whole(t, dir).Trails[0].Witnessed
		if forged.Good || len(forged.By) != witness.Chosen || forged.Why == "" {
			t.Errorf("%+v", forged)
		}
		for _, c := range forged.By {
			if c.Key.Good {
				t.Errorf("%s: %s", c.Witness, c.Key)
			}
		}
		r.unharmed(nil)
	})
}

// A node's whole disk is destroyed. One custodian's copy, by itself, shows all that the trail showed:
// whose it was, what is in it, who had seen it and by when.
func TestLostDisk(t *testing.T) {
	simulated(t, func(t *testing.T, r *region) {
		auditor, n := r.auditor(), r.nodes[0]
		must(t, errors.Join(os.MkdirAll(filepath.Join(n.dir(), beside.TrustDir), 0o755), os.WriteFile(
			filepath.Join(n.dir(), beside.TrustDir, fmt.Sprintf("%x", sha256.Sum256(auditor.record))), auditor.record, 0o644)))
		auditor.record = nil // it has the global keys and the copy alone
		for range 4 {
			n.await(n.record(3))
			time.Sleep(15 * time.Minute)
		}
		late := n.custodians()[0]
		must(t, os.RemoveAll(late.copyOf(n))) // it comes too late to have seen the heads itself
		time.Sleep(10 * time.Minute)
		n.await(n.record(1))
		time.Sleep(10 * time.Minute)
		was := auditor.whole(t, n.dir())
		n.down()
		must(t, os.RemoveAll(n.disk))
		for _, c := range n.custodians() {
			alone := filepath.Join(t.TempDir(), "trail") // nothing of the custodian's own beside it
			must(t, os.CopyFS(alone, os.DirFS(filepath.Join(c.copyOf(n), "trail"))))
			is := auditor.whole(t, alone)
			if w := is.Trails[0].Witnessed; !w.Good || w.Size != was.Trails[0].Witnessed.Size || len(is.Facts) != len(was.Facts) {
				t.Fatalf("%s shows %d facts of %d, %+v", c.id, len(is.Facts), len(was.Facts), w)
			}
			for i, f := range is.Facts {
				if seen := f.Seen.Sub(was.Facts[i].Seen); f.Seen.IsZero() || seen > trail.SeenEvery {
					t.Errorf("%s: leaf %d was seen by %s, on the disk that is lost by %s", c.id, f.Index, f.Seen, was.Facts[i].Seen)
				}
			}
		}
		n.leave(true)
		r.unharmed(n)
	})
}
