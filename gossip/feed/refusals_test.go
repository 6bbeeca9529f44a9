package feed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"
)

// A chain takes no key that could not be that of its own epochs, and never a second one for the same.
func TestKeysThatAreRefused(t *testing.T) {
	l, other := newLife(t, n1, 1, true), newLife(t, n1, 1, true)
	changed := func(change func(*EpochKey)) EpochKey {
		key := l.EpochKey
		change(&key)
		return key
	}
	n := newNode(t, n1, l)
	for name, key := range map[string]EpochKey{
		"another origin's":        newLife(t, n2, 2, true).EpochKey,
		"of epoch 0":              changed(func(k *EpochKey) { k.Epoch = 0 }),
		"none":                    changed(func(k *EpochKey) { k.Epoch, k.Key = 2, nil }),
		"a second for its epoch":  other.EpochKey,
		"a longer one, not ours":  certify(t, n1, 1, true, other.priv, l.NotAfter.Add(time.Hour)).EpochKey,
		"nothing":                 {},
		"ours in another's name":  changed(func(k *EpochKey) { k.Origin, k.Epoch = n2, 1 }),
		"ours in a region's name": changed(func(k *EpochKey) { k.Origin = n1.TrustDomain().ID() }),
	} {
		if err := n.SetKey(key); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
		if got, ok := n.Key(1); !ok || !got.Key.Equal(l.Key) || !got.NotAfter.Equal(l.NotAfter) || len(n.Epochs()) != 1 {
			t.Fatalf("%s: the chain has %+v now, of epochs %v", name, got, n.Epochs())
		}
	}

	// A renewal moves the end of the epoch, never back, and never its class.
	renewed := certify(t, n1, 1, true, l.priv, l.NotAfter.Add(time.Hour)).EpochKey
	renewed.Class = "gateway"
	for _, key := range []EpochKey{renewed, l.EpochKey} {
		if err := n.SetKey(key); err != nil {
			t.Fatal(err)
		}
		if got, _ := n.Key(1); !got.NotAfter.Equal(renewed.NotAfter) || got.Class != l.Class {
			t.Errorf("until %s, class %s; want %s and %s", got.NotAfter, got.Class, renewed.NotAfter, l.Class)
		}
	}
}

// Nobody gets a writer with which he would sign what others refuse, or what convicts him.
func TestWritersThatAreRefused(t *testing.T) {
	first, second := newLife(t, n1, 1, true), newLife(t, n1, 2, true)
	_, wrongKind, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	later := newNode(t, n1, first, second)
	later.write(t, second, t0, 1)
	frozen := newNode(t, n1, first)
	frozen.write(t, first, t0, 2)
	frozen.FreezeAt(1, 1)
	for _, test := range []struct {
		name   string
		chain  *node
		epoch  uint64
		signer crypto.Signer
		want   error
	}{
		{"an epoch without a certificate", newNode(t, n1, first), 2, second.priv, ErrUnknown},
		{"another epoch's key", newNode(t, n1, first, second), 1, second.priv, ErrUnknown},
		{"a key of another kind", newNode(t, n1, first), 1, wrongKind, ErrUnknown},
		{"the feed is in a newer epoch", later, 1, first.priv, ErrOldEpoch},
		{"the feed is frozen", frozen, 1, first.priv, ErrOldEpoch},
	} {
		if w, err := NewWriter(test.chain.Chain, test.epoch, test.signer); !errors.Is(err, test.want) || w != nil {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if _, err := NewWriter(newNode(t, n1, first, second).Chain, 1, first.priv); err != nil {
		t.Errorf("a newer epoch in which nothing was written: %v", err)
	}
}

// What a writer refuses uses no number up.
func TestDraftsThatAreRefused(t *testing.T) {
	brief := newLife(t, n1, 1, true)
	brief = certify(t, n1, 1, true, brief.priv, t0.Add(time.Minute))
	n := newNode(t, n1, brief)
	recs := n.write(t, brief, t0, 1)
	w, err := NewWriter(n.Chain, 1, brief.priv)
	if err != nil {
		t.Fatal(err)
	}
	one := func(op Op) Draft { return Draft{Ops: []Op{op}} }
	for _, test := range []struct {
		name  string
		at    time.Time
		draft Draft
		want  error
	}{
		{"another's key", t0.Add(time.Second), one(put(KeyOf(n2, KindService, "shop"), "x")), ErrForeign},
		{"another's key in a snapshot", t0.Add(time.Second), Draft{Kind: Snapshot, Parts: 1, Ops: []Op{restated(KeyOf(n2, KindService, "shop"), "x")}}, ErrForeign},
		{"a value that its kind does not take", t0.Add(time.Second), one(put(svc, string(make([]byte, 5<<10)))), ErrSchema},
		{"the clock was set back", t0.Add(-MaxAhead - time.Second), one(put(svc, "x")), ErrClockBehind},
		{"the certificate has ended", t0.Add(time.Minute + time.Second), one(put(svc, "x")), ErrExpired},
	} {
		if _, err := w.Next(test.at, test.draft); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	rec, err := w.Next(t0.Add(time.Second), one(put(svc, "x")))
	if err != nil || rec.Seq != recs[0].Seq+1 {
		t.Fatalf("the next record is %d, want %d: %v", rec.Seq, recs[0].Seq+1, err)
	}
	if _, err := w.Next(t0.Add(2*time.Second), one(put(svc, "y"))); !errors.Is(err, ErrUncommitted) {
		t.Errorf("another before that is admitted: %v", err)
	}

	broken, err := NewWriter(n.Chain, 1, brokenSigner{brief.priv})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Next(t0.Add(time.Second), one(put(svc, "x"))); !errors.Is(err, errBroken) {
		t.Errorf("a signer that fails: %v", err)
	}
	n.FreezeAt(1, 1)
	if _, err := broken.Next(t0.Add(time.Second), one(put(svc, "x"))); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("frozen since: %v", err)
	}
}

// brokenSigner has a key that it cannot use, as a TPM that is gone.
type brokenSigner struct{ *ecdsa.PrivateKey }

var errBroken = errors.New("the key is not there")

func (brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errBroken
}

// A snapshot that would be refused is not split into records.
func TestSnapshotsThatAreRefused(t *testing.T) {
	l := newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	w, err := NewWriter(n.Chain, 1, l.priv)
	if err != nil {
		t.Fatal(err)
	}
	many := func(count, size int) (ops []Op) {
		for i := range count {
			op := restated(KeyOf(n1, "x-note", string(rune('a'+i/676%26))+string(rune('a'+i/26%26))+string(rune('a'+i%26))), string(make([]byte, size)))
			ops = append(ops, op)
		}
		return ops
	}
	limits := LimitsOf("node")
	for _, test := range []struct {
		name string
		ops  []Op
		want error
	}{
		{"another's key", []Op{restated(KeyOf(n2, KindService, "shop"), "x")}, ErrForeign},
		{"more keys than the class has", many(int(limits.Keys)+1, 1), ErrQuota},
		{"more bytes than the class has", many(int(limits.Bytes)/4096+1, 4096), ErrQuota},
	} {
		if _, err := w.Snapshot(test.ops); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	parts, err := w.Snapshot(many(300, 1))
	if err != nil || len(parts) < 2 {
		t.Errorf("%d parts, %v", len(parts), err)
	}
}

// A header without its record is judged as far as it can be, and changes nothing where it is refused.
func TestHeadersThatAreRefused(t *testing.T) {
	l, other := newLife(t, n1, 1, true), newLife(t, n1, 1, true)
	n := newNode(t, n1, l)
	recs := n.write(t, l, t0, 3)
	now := t0.Add(time.Second)
	beyond := Header{Seq: 9, HLC: NewHLC(l.NotAfter.Add(time.Hour)), Base: 7}
	for _, test := range []struct {
		name string
		told Signed
		want Verdict
	}{
		{"another origin's", forge(t, newLife(t, n2, 1, true), Header{Seq: 9, HLC: NewHLC(now), Base: 7}).Signed, UnknownOrigin},
		{"of an unknown epoch", forge(t, newLife(t, n1, 2, true), Header{Seq: 9, HLC: NewHLC(now), Base: 7}).Signed, UnknownOrigin},
		{"of a record that is held", recs[1].Signed, Duplicate},
		{"signed by another key", forge(t, other, Header{Seq: 9, HLC: NewHLC(now), Base: 7}).Signed, BadSignature},
		{"dated after its certificate", forge(t, l, beyond).Signed, Unjudged},
		{"another in the place of one that is held", forge(t, l, Header{Seq: 2, Prev: recs[0].ID(), HLC: recs[1].HLC + 1}).Signed, Fork},
	} {
		if res := n.Witness(now, test.told); res.Verdict != test.want {
			t.Errorf("%s: %s (%v), want %s", test.name, res.Verdict, res.Err, test.want)
		}
		if next := n.Next(1); next != 4 {
			t.Fatalf("%s: record %d is wanted now", test.name, next)
		}
	}
	n.FreezeAt(1, 3)
	if n.Witness(now, forge(t, l, Header{Seq: 9, HLC: NewHLC(now), Base: 7}).Signed); n.Next(1) != 4 {
		t.Error("behind a freeze: its snapshot is wanted")
	}
}
