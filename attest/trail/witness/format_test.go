package witness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Frozen: what any C2SP tool has to make of these bytes is fixed for good.
const (
	frozenKey  = "east.dev.example/witness/w00+41931792+BPFl4eX3wpDlLy7e8/urYMuudL/TJ0+OXuHeM0XJVKFm"
	frozenText = "east.dev.example/trail/n1/1\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	frozenLine = "— east.dev.example/witness/w00 QZMXkgAAAABp9JXAJng76R3fkkKa+2Uz9PMrftQ/Xs/6YXCxrD1pbUgM0LA5pcG0NEb/MTmeolLxaDBBouqJdX5G36RzAgyNcZrdCA==\n"
)

func TestFrozenCosignature(t *testing.T) {
	k, err := NewKey(node("node/w00"), sha256.Sum256([]byte("seed")))
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Verifier(); got != frozenKey {
		t.Errorf("verifier key %q", got)
	}
	line := k.cosign(frozenText, t0)
	if line != frozenLine {
		t.Errorf("cosignature %q", line)
	}
	if at, err := Open(frozenText, line, Member{node("node/w00"), k.Verifier()}); err != nil || !at.Equal(t0) {
		t.Errorf("%s, %v", at, err)
	}
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%#v", k), fmt.Sprintf("%+v", *k), fmt.Sprintf("%x", k)} {
		if s != k.Verifier() {
			t.Errorf("a key prints as %q", s)
		}
	}
}

// What the reference library of transparency-dev makes of our lines, and we of its.
func TestCosignaturesAreThoseOfC2SP(t *testing.T) {
	k, _ := keys(t, node("zone/z1/node/w00"))
	v, err := fnote.NewVerifierForCosignatureV1(k[0].Verifier())
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, node("node/n1")).grow(3, "x")
	raw := Assemble(l.head(3, [32]byte{1}), []byte(k[0].cosign(headText(l, 3, [32]byte{1}), t0)))
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 {
		t.Fatalf("%v", err)
	}
	if at, err := fnote.CoSigV1Timestamp(n.Sigs[0]); err != nil || !at.Equal(t0) {
		t.Errorf("%s, %v", at, err)
	}
}

func headText(l *log, size int, roster [32]byte) string {
	raw := l.head(size, roster)
	return string(raw[:bytes.LastIndex(raw, []byte("\n\n"))+1])
}

func TestOpenRefuses(t *testing.T) {
	k, _ := keys(t, nodes(2)...)
	m := Member{node("node/w00"), k[0].Verifier()}
	good := k[0].cosign(frozenText, t0)
	for name, tt := range map[string]struct {
		text, line string
		m          Member
	}{
		"another head":      {frozenText + "x\n", good, m},
		"another witness":   {frozenText, good, Member{node("node/w01"), k[1].Verifier()}},
		"another's line":    {frozenText, k[1].cosign(frozenText, t0), m},
		"key of another":    {frozenText, good, Member{node("node/w00"), k[1].Verifier()}},
		"no newline":        {frozenText, strings.TrimSuffix(good, "\n"), m},
		"a space more":      {frozenText, strings.Replace(good, " ", "  ", 1), m},
		"carriage return":   {frozenText, strings.Replace(good, "=", "\r=", 1), m},
		"cut":               {frozenText, good[:len(good)-9] + "\n", m},
		"not base64":        {frozenText, good[:len(good)-3] + "?=\n", m},
		"empty":             {frozenText, "", m},
		"node of no roster": {frozenText, good, Member{spiffeid.RequireFromString("spiffe://a.example/x"), m.Key}},
	} {
		if at, err := Open(tt.text, tt.line, tt.m); err == nil || !at.IsZero() {
			t.Errorf("%s: %s, %v", name, at, err)
		}
	}
}

func TestRosterHasOneSpelling(t *testing.T) {
	_, r := keys(t, nodes(6)...)
	again, err := ParseRoster(r.Bytes())
	if err != nil || again.Hash() != r.Hash() || len(again.Members()) != 6 {
		t.Fatal(err)
	}
	raw := string(r.Bytes())
	lines := strings.SplitAfter(raw, "\n")
	for name, b := range map[string]string{
		"order": lines[1] + lines[0], "twice": lines[0] + lines[0], "open end": strings.TrimSuffix(raw, "\n"),
		"word": strings.Replace(raw, "witness ", "log ", 1), "id": strings.Replace(raw, "spiffe://", "", 1),
		"key of another": strings.Replace(raw, "node/w00", "node/w0", 1), "empty line": raw + "\n", "fields": "witness x\n",
	} {
		if _, err := ParseRoster([]byte(b)); !errors.Is(err, ErrRoster) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if (Roster{}).Hash() != [32]byte{} {
		t.Error("an empty roster has a hash")
	}
}

func TestChoiceSpansFailureDomains(t *testing.T) {
	var ids []spiffeid.ID
	for _, zone := range []string{"a", "b"} {
		for i := range 12 {
			if zone == "b" && i >= 3 {
				break
			}
			ids = append(ids, node(fmt.Sprintf("zone/%s/node/n%d", zone, i)))
		}
	}
	_, r := keys(t, ids...)
	for _, owner := range ids {
		chosen := r.Choose(owner)
		if len(chosen) != Chosen || slices.ContainsFunc(chosen, func(m Member) bool { return m.ID == owner }) {
			t.Fatalf("%s: %v", owner, chosen)
		}
		far := 0
		for _, m := range chosen {
			if domain(m.ID) != domain(owner) {
				far++
			}
		}
		if far < outside {
			t.Errorf("%s: %d witnesses outside its zone", owner, far)
		}
	}
	if _, few := keys(t, nodes(5)...); len(few.Choose(node("node/w00"))) != Chosen || len(few.Choose(node("node/other"))) != Chosen {
		t.Error("four others are enough")
	}
	if _, few := keys(t, nodes(4)...); few.Choose(node("node/w00")) != nil {
		t.Error("three others are chosen from")
	}
}

// One node more moves few witnesses, and nobody is chosen by far more than others.
func TestChoiceIsStableAndEven(t *testing.T) {
	_, r := keys(t, nodes(40)...)
	_, more := keys(t, nodes(41)...)
	moved, load := 0, map[spiffeid.ID]int{}
	for _, owner := range nodes(40) {
		before, after := r.Choose(owner), more.Choose(owner)
		for _, m := range after {
			if !slices.ContainsFunc(before, func(b Member) bool { return b.ID == m.ID }) {
				moved++
			}
			load[m.ID]++
		}
	}
	if moved > 15 {
		t.Errorf("%d of 160 places moved", moved)
	}
	for id, n := range load {
		if n > 14 {
			t.Errorf("%s is a witness of %d of 40", id, n)
		}
	}
}

func TestRequestHasOneSpelling(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(9, "x")
	r := l.request(5, 9, [32]byte{})
	got, err := ParseRequest(r.Encode())
	if err != nil || got.Old != 5 || !slices.Equal(got.Proof, r.Proof) || !bytes.Equal(got.Head, r.Head) {
		t.Fatalf("%+v, %v", got, err)
	}
	raw := string(r.Encode())
	for name, b := range map[string]string{
		"leading zero": strings.Replace(raw, "old 5", "old 05", 1), "sign": strings.Replace(raw, "old 5", "old +5", 1),
		"word": strings.Replace(raw, "old", "new", 1), "huge": strings.Replace(raw, "old 5", "old 99999999999999999999", 1),
		"no head": strings.SplitAfter(raw, "\n\n")[0], "empty": "", "long proof": "old 5\n" + strings.Repeat("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 64) + "\nx\n",
		"hash": strings.Replace(raw, "=\n", "\n", 1),
	} {
		if _, err := ParseRequest([]byte(b)); !errors.Is(err, ErrWire) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for in, size := range map[string]int{"409\n17\n": 17, "409\n017\n": -1, "200\n17\n": -1, "409\n17": -1} {
		a, err := ParseAnswer([]byte(in))
		if n, ok := a.Size(); err != nil || ok != (size >= 0) || ok && n != uint64(size) {
			t.Errorf("%q: %d %t %v", in, n, ok, err)
		}
	}
	if got, err := ParseAnswer(Answer{503, []byte("x\n")}.Encode()); err != nil || got.Status != 503 || string(got.Body) != "x\n" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Every pair of small sizes, against proofs that x/mod made.
func TestImpliedRoots(t *testing.T) {
	l := newLog(t, node("node/n1")).grow(70, "x")
	other := l.fork(3).grow(67, "y")
	for size := 2; size <= 70; size++ {
		for old := 1; old < size; old++ {
			first, second, ok := implied(uint64(old), uint64(size), l.proof(old, size), l.root(old))
			if !ok || first != l.root(old) || second != l.root(size) {
				t.Fatalf("%d in %d: %t", old, size, ok)
			}
			if old&(old-1) == 0 {
				continue
			}
			if first, second, ok := implied(uint64(old), uint64(size), other.proof(old, size), l.root(old)); !ok || first != other.root(old) || second != other.root(size) {
				t.Fatalf("%d in another %d: %t", old, size, ok)
			}
			p := l.proof(old, size)
			if _, second, ok := implied(uint64(old), uint64(size), append(p, [32]byte{1}), l.root(old)); ok && second == l.root(size) {
				t.Fatalf("%d in %d: a longer proof", old, size)
			}
			if _, second, ok := implied(uint64(old), uint64(size), p[:len(p)-1], l.root(old)); ok && second == l.root(size) {
				t.Fatalf("%d in %d: a shorter proof", old, size)
			}
		}
	}
}
