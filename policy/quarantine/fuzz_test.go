package quarantine

import (
	"bytes"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FuzzOrder applies facts in two orders and to two halves that are then merged:
// the sets must be equal.
func FuzzOrder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte{0x10, 0x51, 0x92, 0xd3, 0x14, 0x55})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 60 {
			return
		}
		apply := func(s *Set, i int) {
			op := ops[i]
			at := t0.Add(time.Duration(op) * time.Second)
			accused := string('a' + rune(op>>2&1))
			switch op & 3 {
			case 0, 1:
				s.AddEvidence(at, evidence(accused, op>>4, uint64(op>>5)), node(string('p'+rune(op&7))))
			case 2:
				s.AddRelease(at, release(t, accused, uint64(op>>6)+1, t0.Add(time.Duration(op)*time.Minute), op>>4))
			case 3:
				if op > 250 {
					s.AddRevocation(at, revocation(t, accused))
				}
			}
		}
		ahead, back, left, right := NewSet(td, plainChecks()), NewSet(td, plainChecks()), NewSet(td, plainChecks()), NewSet(td, plainChecks())
		for i := range ops {
			apply(ahead, i)
			apply(back, len(ops)-1-i)
			if i%2 == 0 {
				apply(left, i)
			} else {
				apply(right, i)
			}
		}
		for _, id := range []spiffeid.ID{node("a"), node("b")} {
			if b, err := right.Marshal(id); err == nil {
				if err := left.Unmarshal(b); err != nil {
					t.Fatal(err)
				}
			}
			want, _ := ahead.Marshal(id)
			for name, s := range map[string]*Set{"backwards": back, "merged": left} {
				if got, _ := s.Marshal(id); !bytes.Equal(got, want) {
					t.Errorf("%s %s:\n%x, want\n%x", name, id, got, want)
				}
				for _, d := range []time.Duration{0, time.Hour, 5 * time.Hour} {
					if got, want := s.Standing(id, t0.Add(d)), ahead.Standing(id, t0.Add(d)); got != want {
						t.Errorf("%s %s at +%s: %+v, want %+v", name, id, d, got, want)
					}
				}
			}
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	s := NewSet(td, plainChecks())
	mustAdd(f, s, t0, evidence("a", 1, 1))
	s.AddRelease(t0, release(f, "a", 3, t0.Add(time.Hour), 1))
	s.AddRevocation(t0, revocation(f, "a"))
	b, err := s.Marshal(node("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewSet(td, Checks{})
		if err := s.Unmarshal(in); err != nil {
			if len(s.Cases(t0)) != 0 {
				t.Errorf("refused (%v), yet a case is there", err)
			}
			return
		}
		for _, c := range s.Cases(t0) {
			if _, err := s.Marshal(c.Accused); err != nil {
				t.Errorf("%s was read and cannot be written: %v", c.Accused, err)
			}
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	f.Add(release(f, "a", 3, t0, 1, 2))
	f.Add(revocation(f, "a"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := ParseRelease(in); err == nil {
			if out, err := r.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x parses but encodes as %x (%v)", in, out, err)
			}
		}
		if r, err := ParseRevocation(in); err == nil {
			if out, err := r.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x parses but encodes as %x (%v)", in, out, err)
			}
		}
	})
}

func FuzzParseAccusation(f *testing.F) {
	f.Add(accusation(f, node("a"), t0))
	f.Fuzz(func(t *testing.T, in []byte) {
		if a, err := ParseAccusation(in); err == nil {
			if out, err := a.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x parses but encodes as %x (%v)", in, out, err)
			}
		}
	})
}

// FuzzAccusationOrder applies accusations, withdrawals, releases and proofs in two orders, some of
// them late: at every time both sets say the same.
func FuzzAccusationOrder(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Add([]byte{0x20, 0x61, 0xa2, 0xe3, 0x24, 0x65, 0xff, 0xf0, 0x0f})
	members := fleet(7)
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 80 {
			return
		}
		end := t0.Add(15 * time.Minute)
		apply := func(s *Set, op byte) {
			by, accused := members[op&7%7].ID, members[op>>3&1].ID
			at := t0.Add(time.Duration(op>>4) * time.Minute)
			switch {
			case op == 255:
				s.AddRelease(end, release(t, "f0", 2, at))
			case op >= 0xf8:
				s.AddEvidence(end, evidence("f3", op, 1), by)
			default:
				a := Accusation{Accused: accused, Class: "x", Seen: at, At: at, Expires: at.Add(AccusationTerm)}
				if op&4 == 0 && op>>4&1 == 1 {
					a.Expires = at
				}
				b, err := a.Encode()
				if err != nil {
					t.Fatal(err)
				}
				s.Accuse(end, by, b)
			}
		}
		ahead, back := NewSet(td, plainChecks()), NewSet(td, plainChecks())
		ahead.Enrol(members)
		for i := range ops {
			apply(ahead, ops[i])
			apply(back, ops[len(ops)-1-i])
		}
		back.Enrol(members)
		for _, m := range members {
			for d := time.Duration(0); d < 40*time.Minute; d += 3 * time.Minute {
				at := t0.Add(d)
				if a, b := ahead.Standing(m.ID, at), back.Standing(m.ID, at); a != b {
					t.Errorf("%s at +%s: %+v one way, %+v the other", m.ID, d, a, b)
				}
				if a, b := ahead.Effects(m.ID, at, Roster{Attested: 7}), back.Effects(m.ID, at, Roster{Attested: 7}); a != b {
					t.Errorf("%s at +%s: %+v one way, %+v the other", m.ID, d, a, b)
				}
			}
		}
	})
}
