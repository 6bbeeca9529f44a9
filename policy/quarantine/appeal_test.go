package quarantine

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func appeal(note string, at time.Time) Appeal {
	return Appeal{Accused: node("a"), Note: note, At: at, EKHash: [32]byte{7}, Resets: 1, Starts: 5, Epoch: 2, By: node("issuer")}
}

func TestAppealIsTaken(t *testing.T) {
	shut := Status{Standing: Quarantined, Since: t0.Add(500 * time.Millisecond)}
	for _, tt := range []struct {
		name    string
		a       Appeal
		before  Appeal
		st      Status
		news    bool
		refused bool
	}{
		{"the first", appeal("a copy ran", t0.Add(time.Second)), Appeal{}, shut, true, false},
		{"in the second of the proof", appeal("a copy ran", t0), Appeal{}, shut, true, false},
		{"the same again", appeal("a copy ran", t0.Add(2*time.Second)), appeal("a copy ran", t0.Add(time.Second)), shut, false, false},
		{"other words at once", appeal("or two", t0.Add(2*time.Second)), appeal("a copy ran", t0.Add(time.Second)), shut, false, true},
		{"other words later", appeal("or two", t0.Add(61*time.Second)), appeal("a copy ran", t0.Add(time.Second)), shut, true, false},
		{"the one before was about another case", appeal("a copy ran", t0.Add(time.Second)), appeal("a copy ran", t0.Add(-time.Second)), shut, true, false},
		{"in good standing", appeal("a copy ran", t0), Appeal{}, Status{}, false, true},
		{"held only", appeal("a copy ran", t0), Appeal{}, Status{Standing: Held}, false, true},
		{"revoked", appeal("a copy ran", t0), Appeal{}, Status{Standing: Revoked}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			news, err := tt.a.Take(tt.before, tt.st)
			if news != tt.news || errors.Is(err, ErrAppeal) != tt.refused || (err != nil) != tt.refused {
				t.Errorf("news %v, %v", news, err)
			}
		})
	}
	if !appeal("x", t0).Pending(shut) || appeal("x", t0.Add(-time.Second)).Pending(shut) || (Appeal{}).Pending(shut) || appeal("x", t0).Pending(Status{Standing: Released}) {
		t.Error("pending is what waits for a decision on this case")
	}
}

func TestAppealBounds(t *testing.T) {
	for name, change := range map[string]func(*Appeal){
		"no note":    func(a *Appeal) { a.Note = "" },
		"long note":  func(a *Appeal) { a.Note = strings.Repeat("x", MaxNote+1) },
		"not text":   func(a *Appeal) { a.Note = "\xff" },
		"no accused": func(a *Appeal) { a.Accused = Appeal{}.Accused },
		"no issuer":  func(a *Appeal) { a.By = Appeal{}.By },
		"no time":    func(a *Appeal) { a.At = time.Unix(-1, 0) },
	} {
		a := appeal("x", t0)
		change(&a)
		if _, err := a.Encode(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if _, err := appeal(strings.Repeat("x", MaxNote), t0).Encode(); err != nil {
		t.Errorf("the longest note: %v", err)
	}
}

func FuzzAppeal(f *testing.F) {
	b, err := appeal("a copy ran", t0).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := ParseAppeal(in)
		if err != nil {
			if !errors.Is(err, ErrAppeal) {
				t.Errorf("an error without its kind: %v", err)
			}
			return
		}
		if out, err := a.Encode(); err != nil || !bytes.Equal(in, out) {
			t.Errorf("read, and written otherwise: %v", err)
		}
	})
}
