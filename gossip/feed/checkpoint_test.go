package feed

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

var checkpointType = statement.Type{Name: "test-checkpoint", Version: 1}

type testCheckpoint struct {
	Root  [32]byte `cbor:"1,keyasint"`
	Feeds uint64   `cbor:"2,keyasint"`
	At    int64    `cbor:"3,keyasint"`
}

// checkpoint signs a frontier as an authority would.
func checkpoint(tb testing.TB, key *ecdsa.PrivateKey, f Frontier, at time.Time) []byte {
	tb.Helper()
	payload, err := statement.Marshal(testCheckpoint{f.Root(), f.Size(), at.UnixMilli()})
	if err != nil {
		tb.Fatal(err)
	}
	b, err := statement.Sign(key, checkpointType, "east.dev.example", payload)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func checkpoints(key *ecdsa.PublicKey) CheckpointFunc {
	return func(signed []byte, td spiffeid.TrustDomain) (Checkpoint, error) {
		env, err := statement.Parse(signed)
		if err == nil {
			err = env.Verify(key, checkpointType, td.Name())
		}
		var c testCheckpoint
		if err == nil {
			err = statement.Unmarshal(env.Payload(), &c)
		}
		return Checkpoint{c.Root, c.Feeds, time.UnixMilli(c.At)}, err
	}
}

func everything(FeedID) bool { return true }

func TestCovers(t *testing.T) {
	boss, other := newLife(t, n2, 1, true).priv, newLife(t, n2, 1, true).priv
	f := Frontier{}
	for i := range 21 {
		origin := spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/c%d", i))
		f[FeedID{origin, uint64(i + 1)}] = Head{Seq: uint64(i), ID: ID{byte(i)}} // the first has no records
	}
	signed := checkpoint(t, boss, f, t0)
	covers, err := MakeCovers(signed, f, everything)
	if err != nil || len(covers) != 20 || f.Size() != 20 {
		t.Fatalf("%d covers: %v", len(covers), err)
	}
	for id, b := range covers {
		got, err := VerifyCover(b, checkpoints(&boss.PublicKey))
		if want := (Cover{id, f[id].Seq, f[id].ID, t0}); err != nil || !got.At.Equal(t0) || got.Feed != want.Feed || got.Seq != want.Seq || got.ID != want.ID {
			t.Errorf("cover %+v: %v", got, err)
		}
		if _, err := VerifyCover(b, checkpoints(&other.PublicKey)); !errors.Is(err, ErrUncheckable) {
			t.Errorf("under another key: %v", err)
		}
		if coverSchema(CoverName(id), b) != nil || coverSchema(CoverName(FeedID{n1, 1}), b) == nil {
			t.Error("a cover is named by its feed")
		}
	}
	id := FeedID{spiffeid.RequireFromString("spiffe://east.dev.example/node/c7"), 8}
	for name, change := range map[string]func(*cover){
		"another head":       func(c *cover) { c.Head.ID[0]++ },
		"another seq":        func(c *cover) { c.Head.Seq++ },
		"another epoch":      func(c *cover) { c.Head.Epoch++ },
		"another place":      func(c *cover) { c.Index++ },
		"a place outside":    func(c *cover) { c.Index = 1 << 60 },
		"a shorter path":     func(c *cover) { c.Path = c.Path[1:] },
		"no origin":          func(c *cover) { c.Head.Origin = "spiffe://east.dev.example" },
		"a path too long":    func(c *cover) { c.Path = make([][32]byte, maxPath+1) },
		"of another domain":  func(c *cover) { c.Head.Origin = "spiffe://west.dev.example/node/c7" },
		"another checkpoint": func(c *cover) { c.Checkpoint = checkpoint(t, boss, Frontier{{n1, 1}: {Seq: 1}}, t0) },
	} {
		c, _, err := parseCover(covers[id])
		if err != nil {
			t.Fatal(err)
		}
		change(&c)
		b, err := statement.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyCover(b, checkpoints(&boss.PublicKey)); !errors.Is(err, ErrCover) && !errors.Is(err, ErrUncheckable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Covers are made of the feeds that are wanted, and none is larger than may be read.
func TestCoversAreFewAndSmall(t *testing.T) {
	boss := newLife(t, n2, 1, true).priv
	f := Frontier{{n1, 1}: {Seq: 1, ID: ID{1}}, {n2, 1}: {Seq: 1, ID: ID{2}}}
	signed := checkpoint(t, boss, f, t0)
	covers, err := MakeCovers(signed, f, func(id FeedID) bool { return id.Origin == n1 })
	if err != nil || len(covers) != 1 || covers[FeedID{n1, 1}] == nil {
		t.Fatalf("%d covers: %v", len(covers), err)
	}
	if _, err := MakeCovers(make([]byte, MaxCover), f, everything); !errors.Is(err, ErrCover) {
		t.Errorf("a checkpoint that leaves no room: %v", err)
	}
	c, _, err := parseCover(covers[FeedID{n1, 1}])
	if err != nil {
		t.Fatal(err)
	}
	trusting := func([]byte, spiffeid.TrustDomain) (Checkpoint, error) {
		return Checkpoint{Root: f.Root(), Feeds: f.Size(), At: t0}, nil
	}
	for size, want := range map[int]error{MaxCover / 2: nil, MaxCover: ErrCover} {
		c.Checkpoint = make([]byte, size)
		b, err := statement.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyCover(b, trusting); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%d bytes: %v, want %v", len(b), err, want)
		}
	}
}

// Whoever steals the key of an epoch whose certificate has ended can date records
// back as it likes: no checkpoint made in time covers them.
func TestBackDating(t *testing.T) {
	l := newLife(t, n1, 1, true)
	owner := newNode(t, n1, l)
	recs := owner.write(t, l, t0, 4)
	cov := Cover{l.Feed(), 4, owner.Head(1).ID, l.NotAfter.Add(-time.Minute)}
	after := l.NotAfter.Add(CoverGrace)
	stolen := forge(t, l, Header{Seq: 5, Prev: recs[3].ID(), HLC: recs[3].HLC + 1}, put(svc, "dated back"))

	j := newNode(t, n1, l)
	want(t, j.admit(after, recs[0]), Uncovered)
	if late := (Cover{cov.Feed, 5, stolen.ID(), after.Add(time.Minute)}); j.Cover(late) {
		t.Error("a checkpoint made too late counts")
	}
	for _, other := range []FeedID{{n2, 1}, {n1, 2}} {
		if j.Cover(Cover{other, 4, cov.ID, cov.At}) {
			t.Errorf("a cover of %v counts for another feed", other)
		}
	}
	if !j.Cover(cov) || j.Cover(cov) {
		t.Error("a cover is news once")
	}
	for i, r := range recs {
		res := j.admit(after, r)
		if want(t, res, map[bool]Verdict{true: ParkedPart, false: Admitted}[i < 3]); i == 3 && len(res.Parts) != 3 {
			t.Fatalf("%d records with the covered one", len(res.Parts))
		}
		if h := j.Head(1); i < 3 && h.Seq != 0 {
			t.Fatalf("head %d before the covered one", h.Seq)
		}
	}
	want(t, j.admit(after, stolen), Uncovered)
	if j.Head(1) != owner.Head(1) {
		t.Errorf("head %+v", j.Head(1))
	}
	honest := newNode(t, n1, l) // in time nobody needs a cover
	for _, r := range recs {
		want(t, honest.admit(l.NotAfter, r), Admitted)
	}
	want(t, honest.admit(after, stolen), Uncovered)
	renewed := certify(t, n1, 1, true, l.priv, l.NotAfter.Add(time.Hour))
	if err := honest.SetKey(renewed.EpochKey); err != nil {
		t.Fatal(err)
	}
	want(t, honest.admit(after, stolen), Admitted)
}

// A thief that knows what is covered cannot lead there by another way.
func TestCoveredHeadDecidesTheHistory(t *testing.T) {
	l := newLife(t, n1, 1, true)
	owner := newNode(t, n1, l)
	recs := owner.write(t, l, t0, 3)
	after := l.NotAfter.Add(CoverGrace)
	j := newNode(t, n1, l)
	j.Cover(Cover{l.Feed(), 3, recs[2].ID(), t0})
	prev := ID{}
	for i := range 3 {
		fake := forge(t, l, Header{Seq: uint64(i + 1), Prev: prev, HLC: NewHLC(t0) + HLC(i)}, put(svc, "fake"))
		want(t, j.admit(after, fake), map[bool]Verdict{true: ParkedPart, false: Uncovered}[i < 2])
		prev = fake.ID()
	}
	if j.Head(1).Seq != 0 || j.Next(1) != 1 {
		t.Fatalf("head %d, next %d", j.Head(1).Seq, j.Next(1))
	}
	for i, r := range recs {
		want(t, j.admit(after, r), map[bool]Verdict{true: ParkedPart, false: Admitted}[i < 2])
	}
}

func TestCoverWithSnapshots(t *testing.T) {
	l := newLife(t, n1, 1, true)
	owner := newNode(t, n1, l)
	old := owner.write(t, l, t0, 3)
	parts := owner.snapshot(t, l, t0.Add(time.Second), twoParts()...) // 4, 5
	tail := owner.write(t, l, t0.Add(2*time.Second), 2)
	after := l.NotAfter.Add(CoverGrace)
	cov := Cover{l.Feed(), 7, tail[1].ID(), t0}
	for _, held := range []int{0, 3} { // one joins, one follows the history
		j := newNode(t, n1, l)
		j.Cover(cov)
		rest := slices.Concat(parts, tail)
		for _, r := range old[:held] {
			want(t, j.admit(t0.Add(time.Minute), r), Admitted)
		}
		if held == 0 {
			j.Witness(after, tail[1].Signed)
		}
		var res Result
		for _, r := range rest {
			res = j.admit(after, r)
		}
		want(t, res, Admitted)
		if !res.Complete || len(res.Parts) != 3 || j.Head(1) != owner.Head(1) || j.Start(1) != 4 {
			t.Errorf("held %d: complete %v with %d, head %+v", held, res.Complete, len(res.Parts), j.Head(1))
		}
	}
	// A stolen key promises a snapshot that nothing covers.
	j := newNode(t, n1, l)
	j.Cover(cov)
	j.Witness(after, forge(t, l, Header{Seq: 100, HLC: tail[1].HLC + 1, Base: 90}).Signed)
	if j.Next(1) != 1 {
		t.Errorf("next %d", j.Next(1))
	}
}

func FuzzVerifyCover(f *testing.F) {
	boss := newLife(f, n2, 1, true).priv
	front := Frontier{{n1, 1}: {Seq: 3, ID: ID{3}}, {n2, 1}: {Seq: 4, ID: ID{4}}}
	covers, err := MakeCovers(checkpoint(f, boss, front, t0), front, everything)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range covers {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := VerifyCover(b, checkpoints(&boss.PublicKey))
		if err != nil {
			return
		}
		c, _, err := parseCover(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := statement.Marshal(c); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x re-encodes as %x", b, again)
		}
		if h := front[got.Feed]; h.Seq != got.Seq || h.ID != got.ID {
			t.Fatalf("false cover %+v", got)
		}
	})
}
