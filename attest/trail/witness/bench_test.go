package witness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func node(name string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://east.dev.example/" + name)
}

// log is a trail as a witness sees it: heads and proofs, made by x/mod's tree.
type log struct {
	t      testing.TB
	owner  spiffeid.ID
	origin string
	key    *ecdsa.PrivateKey
	vkey   string
	leaves []string
	hashes []tlog.Hash
}

func newLog(t testing.TB, owner spiffeid.ID) *log {
	t.Helper()
	l := &log{t: t, owner: owner}
	var err error
	if l.origin, err = trail.Origin(owner, 1); err != nil {
		t.Fatal(err)
	}
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if l.vkey, err = trail.VerifierKey(l.origin, l.key.Public()); err != nil {
		t.Fatal(err)
	}
	return l
}

// fork is the same log as of size, to go on differently.
func (l *log) fork(size int) *log {
	f := *l
	f.hashes, f.leaves = nil, nil
	for _, leaf := range l.leaves[:size] {
		f.add(leaf)
	}
	return &f
}

func (l *log) add(leaf string) {
	l.t.Helper()
	h, err := tlog.StoredHashes(int64(len(l.leaves)), []byte(leaf), l.reader())
	if err != nil {
		l.t.Fatal(err)
	}
	l.leaves, l.hashes = append(l.leaves, leaf), append(l.hashes, h...)
}

func (l *log) grow(n int, what string) *log {
	for range n {
		l.add(fmt.Sprint(what, len(l.leaves)))
	}
	return l
}

func (l *log) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
		for _, i := range at {
			out = append(out, l.hashes[i])
		}
		return out, nil
	})
}

func (l *log) root(size int) [32]byte {
	l.t.Helper()
	h, err := tlog.TreeHash(int64(size), l.reader())
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

func (l *log) proof(old, size int) (out [][32]byte) {
	l.t.Helper()
	if old == 0 || old >= size {
		return nil
	}
	p, err := tlog.ProveTree(int64(size), int64(old), l.reader())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, h := range p {
		out = append(out, h)
	}
	return out
}

func (l *log) Name() string { return l.origin }

func (l *log) KeyHash() uint32 {
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		l.t.Fatal(err)
	}
	h := sha256.Sum256(der)
	return binary.BigEndian.Uint32(h[:])
}

func (l *log) Sign(msg []byte) ([]byte, error) {
	d := sha256.Sum256(msg)
	return ecdsa.SignASN1(rand.Reader, l.key, d[:])
}

// head signs the first size leaves.
func (l *log) head(size int, roster [32]byte) []byte {
	l.t.Helper()
	c := trail.Checkpoint{Origin: l.origin, Size: uint64(size), Root: l.root(size), Roster: roster}
	raw, err := note.Sign(&note.Note{Text: c.Text()}, l)
	if err != nil {
		l.t.Fatal(err)
	}
	return raw
}

func (l *log) request(old, size int, roster [32]byte) Request {
	return Request{Old: uint64(old), Proof: l.proof(old, size), Head: l.head(size, roster)}
}

func (l *log) log() Log { return Log{l.owner, l.vkey} }

// keys are witness keys of nodes w0, w1, ...
func keys(t testing.TB, ids ...spiffeid.ID) (out []*Key, r Roster) {
	t.Helper()
	var members []Member
	for i, id := range ids {
		k, err := NewKey(id, sha256.Sum256([]byte{byte(i)}))
		if err != nil {
			t.Fatal(err)
		}
		out, members = append(out, k), append(members, Member{id, k.Verifier()})
	}
	r, err := NewRoster(members)
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

func nodes(n int) (out []spiffeid.ID) {
	for i := range n {
		out = append(out, node(fmt.Sprintf("node/w%02d", i)))
	}
	return out
}

func only(r Roster) func([32]byte) (Roster, bool) {
	return func(h [32]byte) (Roster, bool) { return r, h == r.Hash() }
}
