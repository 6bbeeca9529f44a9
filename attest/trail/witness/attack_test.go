package witness

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// peers are the witnesses of one region, each with a memory of its own.
type peers struct {
	t      *testing.T
	roster Roster
	chosen []Member
	keys   map[spiffeid.ID]*Key
	kept   map[spiffeid.ID]Kept
	now    time.Time
}

func newPeers(t *testing.T, owner spiffeid.ID) *peers {
	all, r := keys(t, nodes(8)...)
	p := &peers{t: t, roster: r, chosen: r.Choose(owner), keys: map[spiffeid.ID]*Key{}, kept: map[spiffeid.ID]Kept{}, now: t0}
	for i, id := range nodes(8) {
		p.keys[id] = all[i]
	}
	return p
}

// ask hands a head to a witness, with the proof that it wants.
func (p *peers) ask(w spiffeid.ID, l *log, size int) (Outcome, []byte) {
	kept := p.kept[w]
	o := Decide(kept, l.log(), l.request(min(int(kept.Size), size), size, p.roster.Hash()), w, only(p.roster))
	if o.Keep != nil {
		p.kept[w] = *o.Keep
	}
	if o.Why != "" {
		return o, nil
	}
	return o, []byte(p.keys[w].cosign(o.Text, p.now))
}

// judge is what cosignatures of these witnesses make of a head.
func (p *peers) judge(l *log, size int, cosignatures ...[]byte) Verdict {
	raw := Assemble(l.head(size, p.roster.Hash()), cosignatures...)
	c, err := trail.OpenCheckpoint(raw, l.vkey)
	if err != nil {
		p.t.Fatal(err)
	}
	return Judge(c, only(p.roster))
}

// all hands a head to all its witnesses.
func (p *peers) all(l *log, size int) (Verdict, []Outcome) {
	var lines [][]byte
	var outcomes []Outcome
	for _, m := range p.chosen {
		o, line := p.ask(m.ID, l, size)
		outcomes, lines = append(outcomes, o), append(lines, line)
	}
	return p.judge(l, size, lines...), outcomes
}

func reasons(outcomes []Outcome) (out []Reason) {
	for _, o := range outcomes {
		out = append(out, o.Why)
	}
	return out
}

func TestHonestLogIsWitnessed(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(1000, "x")
	p := newPeers(t, l.owner)
	for _, size := range []int{2, 3, 64, 65, 65, 500, 1000} {
		if v, o := p.all(l, size); !v.Good || len(v.By) != Chosen || !v.Seen.Equal(t0) || v.Why != "" {
			t.Fatalf("%d leaves: %+v, %v", size, v, reasons(o))
		}
	}
}

// An old copy of the disk is put back, and the node goes on from there.
func TestRestoredSnapshotGoesOn(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(70, "x")
	p := newPeers(t, l.owner)
	p.all(l, 70)
	old := l.fork(60).grow(40, "other")
	if v, o := p.all(old, 60); v.Good || !slices.Equal(reasons(o), []Reason{Rollback, Rollback, Rollback, Rollback}) {
		t.Errorf("the old head: %+v, %v", v, reasons(o))
	}
	v, o := p.all(old, 95)
	if v.Good || len(v.By) != 0 {
		t.Errorf("%+v", v)
	}
	for _, o := range o {
		if o.Why != Fork || o.Status != http.StatusUnprocessableEntity || o.Conflict == nil {
			t.Fatalf("%+v", o)
		}
		if c, err := o.Conflict.Verify(); err != nil || c.Origin != l.origin {
			t.Errorf("%v", err)
		}
	}
	if v, o := p.all(l, 70); v.Good || o[0].Why != Forked {
		t.Errorf("after a fork is known: %+v, %v", v, reasons(o))
	}
}

// The whole history is written anew, signed again, and made as long as before.
func TestRewrittenAndSignedAgain(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(70, "x")
	p := newPeers(t, l.owner)
	p.all(l, 70)
	clean := newLog(t, l.owner)
	clean.key, clean.vkey = l.key, l.vkey
	clean.grow(70, "clean")
	v, o := p.all(clean, 70)
	if v.Good || o[0].Why != Fork || o[0].Status != http.StatusConflict {
		t.Fatalf("%+v, %v", v, reasons(o))
	}
	if fork, err := trail.Fork(o[0].Conflict.First, o[0].Conflict.Second, l.vkey); err != nil || !fork {
		t.Errorf("%t, %v", fork, err)
	}
}

func TestTruncatedTail(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(70, "x")
	p := newPeers(t, l.owner)
	p.all(l, 70)
	v, o := p.all(l, 69)
	if v.Good || o[0].Why != Rollback || o[0].Size != 70 || o[0].Conflict != nil || o[0].Keep != nil {
		t.Errorf("%+v, %+v", v, o[0])
	}
}

// Two histories are shown, each to half of the witnesses.
func TestTwoHeadsToTwoWitnesses(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(30, "x")
	p := newPeers(t, l.owner)
	p.all(l, 30)
	a, b := l.fork(30).grow(7, "a"), l.fork(30).grow(7, "b")
	var la, lb [][]byte
	for i, m := range p.chosen {
		which, lines := a, &la
		if i%2 == 1 {
			which, lines = b, &lb
		}
		o, line := p.ask(m.ID, which, 37)
		if o.Why != "" {
			t.Fatalf("%+v", o)
		}
		*lines = append(*lines, line)
	}
	if p.judge(a, 37, la...).Good || p.judge(b, 37, lb...).Good {
		t.Error("two of four are enough")
	}
	if _, o := p.all(a, 37); !slices.Contains(reasons(o), Fork) {
		t.Errorf("nobody noticed: %v", reasons(o))
	}
}

// Witnesses that lie cosign whatever they are given.
func TestCollusionBelowQuorum(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(30, "x")
	p := newPeers(t, l.owner)
	p.all(l, 30)
	f := l.fork(20).grow(20, "f")
	text := headText(f, 40, p.roster.Hash())
	lie := func(ids ...spiffeid.ID) (lines [][]byte) {
		for _, id := range ids {
			lines = append(lines, []byte(p.keys[id].cosign(text, t0)))
		}
		return lines
	}
	two := lie(p.chosen[0].ID, p.chosen[1].ID)
	var others []spiffeid.ID
	for _, id := range nodes(8) {
		if !slices.ContainsFunc(p.chosen, func(m Member) bool { return m.ID == id }) {
			others = append(others, id)
		}
	}
	if v := p.judge(f, 40, append(append(two, two...), lie(others...)...)...); v.Good || len(v.By) != 2 {
		t.Errorf("two witnesses, twice, and four that were not chosen: %+v", v)
	}
	if v := p.judge(f, 40, append(two, lie(p.chosen[2].ID)...)...); !v.Good {
		t.Errorf("the test has no quorum to miss: %+v", v)
	}
}

// A key that was stolen after its time signs a statement of long ago. It can come under a
// head only now, and the witnesses say when that was, whatever the leaf says.
func TestBackDatedLeafIsSeenWhenItCame(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(30, "x")
	p := newPeers(t, l.owner)
	expired := t0.Add(time.Hour)
	before, _ := p.all(l, 30)
	p.now = expired.Add(24 * time.Hour)
	l.add("state.out at " + t0.Format(time.RFC3339))
	after, _ := p.all(l, 31)
	if !before.Seen.Before(expired) || !after.Good || !after.Seen.After(expired) {
		t.Errorf("seen %s and %s, the key ended %s", before.Seen, after.Seen, expired)
	}
	// One witness that lies about the time moves nothing.
	lines := [][]byte{}
	for i, m := range p.chosen {
		at := p.now
		if i == 0 {
			at = t0
		}
		lines = append(lines, []byte(p.keys[m.ID].cosign(headText(l, 31, p.roster.Hash()), at)))
	}
	if v := p.judge(l, 31, lines...); !v.Good || !v.Seen.After(expired) {
		t.Errorf("%+v", v)
	}
}

// A head of another node, or one signed by another key, is nobody's here.
func TestHeadOfAnother(t *testing.T) {
	l, other := newLog(t, node("node/n1")).grow(5, "x"), newLog(t, node("node/n2")).grow(5, "x")
	p := newPeers(t, l.owner)
	w := p.chosen[0].ID
	req := other.request(0, 5, p.roster.Hash())
	if o := Decide(Kept{}, l.log(), req, w, only(p.roster)); o.Why != Unsigned || o.Status != http.StatusForbidden {
		t.Errorf("another node's head: %+v", o)
	}
	thief := newLog(t, l.owner).grow(5, "x")
	if o := Decide(Kept{}, l.log(), thief.request(0, 5, p.roster.Hash()), w, only(p.roster)); o.Why != Unsigned {
		t.Errorf("another key: %+v", o)
	}
	p.ask(w, l, 5)
	if o := Decide(p.kept[w], thief.log(), thief.request(5, 5, p.roster.Hash()), w, only(p.roster)); o.Why != OtherKey || o.Keep != nil {
		t.Errorf("the records give another key than before: %+v", o)
	}
}

func TestWhatIsNotCosigned(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(40, "x")
	p := newPeers(t, l.owner)
	w := p.chosen[0].ID
	p.ask(w, l, 21)
	kept, h := p.kept[w], p.roster.Hash()
	_, fewer := keys(t, nodes(7)...)
	ids := nodes(8)
	stranger := ids[slices.IndexFunc(ids, func(id spiffeid.ID) bool {
		return !slices.ContainsFunc(p.chosen, func(m Member) bool { return m.ID == id })
	})]
	wrong := l.request(21, 40, h)
	wrong.Proof = slices.Clone(wrong.Proof)
	wrong.Proof[0][0] ^= 1
	for name, tt := range map[string]struct {
		req    Request
		self   spiffeid.ID
		status int
		why    Reason
	}{
		"proof from zero":   {l.request(0, 40, h), w, 409, Behind},
		"proof from before": {l.request(20, 40, h), w, 409, Behind},
		"old above":         {Request{Old: 41, Head: l.head(40, h)}, w, 400, Malformed},
		"wrong proof":       {wrong, w, 422, NoProof},
		"no proof":          {Request{Old: 21, Head: l.head(40, h)}, w, 422, NoProof},
		"needless proof":    {Request{Old: 21, Head: l.head(21, h), Proof: l.proof(21, 40)}, w, 422, NoProof},
		"unknown roster":    {l.request(21, 40, fewer.Hash()), w, 403, NotMine},
		"no roster":         {l.request(21, 40, [32]byte{}), w, 403, NotMine},
		"not chosen":        {l.request(21, 40, h), stranger, 403, NotMine},
		"not signed":        {Request{Old: 21, Head: bytes.Replace(l.head(40, h), []byte("\n40\n"), []byte("\n39\n"), 1)}, w, 403, Unsigned},
	} {
		o := Decide(kept, l.log(), tt.req, tt.self, only(p.roster))
		if o.Status != tt.status || o.Why != tt.why || o.Keep != nil || o.Conflict != nil || o.Text != "" {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if o := Decide(kept, l.log(), l.request(21, 40, h), w, only(p.roster)); o.Why != "" {
		t.Errorf("the good one: %+v", o)
	}
}

// A proof from a power of two leaves the first root out: such a fork is refused, and
// accuses nobody.
func TestForkAtAPowerOfTwo(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(64, "x")
	p := newPeers(t, l.owner)
	p.all(l, 64)
	f := l.fork(30).grow(60, "f")
	if v, o := p.all(f, 90); v.Good || o[0].Why != NoProof || o[0].Conflict != nil {
		t.Errorf("%+v %v", v, reasons(o))
	}
}

// Nothing but two contradicting heads of the key convicts.
func TestConflictsThatAreNone(t *testing.T) {
	l, other := newLog(t, node("node/n1")).grow(70, "x"), newLog(t, node("node/n1")).grow(70, "y")
	f := l.fork(60).grow(10, "f")
	var h [32]byte
	for name, c := range map[string]Conflict{
		"one head":      {l.vkey, l.head(70, h), l.head(70, h), nil},
		"other roster":  {l.vkey, l.head(70, h), l.head(70, [32]byte{9}), nil},
		"other key":     {l.vkey, l.head(70, h), other.head(70, h), nil},
		"honest growth": {l.vkey, l.head(61, h), l.head(70, h), l.proof(61, 70)},
		"wrong proof":   {l.vkey, l.head(61, h), l.head(70, h), l.proof(62, 70)},
		"made-up proof": {l.vkey, l.head(61, h), l.head(70, h), [][32]byte{{1}, {2}}},
		"backwards":     {l.vkey, l.head(70, h), f.head(61, h), l.proof(61, 70)},
		"power of two":  {l.vkey, l.head(64, h), f.head(70, h), f.proof(64, 70)},
		"nothing":       {},
	} {
		if _, err := c.Verify(); err == nil {
			t.Errorf("%s convicts", name)
		}
	}
	good := Accusation{Conflict{l.vkey, l.head(61, h), f.head(70, h), f.proof(61, 70)}, []byte("word")}
	b, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAccusation(b)
	if err != nil || again.Digest() != good.Digest() || string(again.Endorsement) != "word" {
		t.Fatal(err)
	}
	if _, err := again.Verify(); err != nil {
		t.Error(err)
	}
	for i := range b { // no flipped bit convicts anew or crashes
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if a, err := ParseAccusation(bad); err == nil {
			if _, err := a.Verify(); err == nil && !bytes.Equal(a.Endorsement, []byte("word")) {
				continue // the word is checked by others
			} else if err == nil {
				t.Errorf("byte %d may be anything", i)
			}
		}
	}
	if _, err := (Accusation{Conflict{First: make([]byte, MaxConflict)}, nil}).Encode(); !errors.Is(err, ErrConflict) {
		t.Errorf("too large: %v", err)
	}
}

func TestJudgeNeedsTheRoster(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(5, "x")
	p := newPeers(t, l.owner)
	var lines [][]byte
	for _, m := range p.chosen {
		_, line := p.ask(m.ID, l, 5)
		lines = append(lines, line)
	}
	raw := Assemble(l.head(5, p.roster.Hash()), lines...)
	c, err := trail.OpenCheckpoint(raw, l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	_, other := keys(t, nodes(7)...)
	for name, find := range map[string]func([32]byte) (Roster, bool){
		"none": func([32]byte) (Roster, bool) { return Roster{}, false }, "another": func([32]byte) (Roster, bool) { return other, true },
	} {
		if v := Judge(c, find); v.Good || v.Why == "" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	c.Roster = [32]byte{}
	if v := Judge(c, only(p.roster)); v.Good || v.Why == "" {
		t.Errorf("no roster: %+v", v)
	}
	if v := p.judge(l, 5, lines[1], lines[3]); v.Good || len(v.By) != 2 {
		t.Errorf("two: %+v", v)
	}
}
