package authority

import (
	"errors"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

func TestBeacon(t *testing.T) {
	a := newAuthority(t)
	far := NewBook(td, a.keys) // a node that is cut off between the first beacon and the last
	var last Beacon
	for i := range uint64(maxJump + 3) {
		s, err := a.Beacon(t0.Add(time.Duration(i)*time.Minute), "east", [32]byte{9}, i)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Beacon()
		if err != nil || b.Number != i+1 || s.Version != b.Number || b.Random == last.Random || b.Root[0] != 9 || b.Feeds != i || !b.At.Equal(t0.Add(time.Duration(i)*time.Minute)) {
			t.Fatalf("%d: %+v, version %d, %v", i, b, s.Version, err)
		}
		last = b
		if i > 0 && i < maxJump+2 {
			continue
		}
		if _, changed, err := far.Add(s.Raw); !changed || err != nil {
			t.Errorf("%d: changed %v, %v", i, changed, err)
		}
	}
	if n := len(a.Objects()); n != 1 {
		t.Errorf("%d objects, want the newest beacon alone", n)
	}
	if _, err := a.Objects()[0].Service(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a beacon is a service: %v", err)
	}
}

func TestBeaconMalformed(t *testing.T) {
	a := newAuthority(t)
	good := Object{Kind: KindBeacon, Level: Regional, Name: "east", Version: 3, Origin: self}
	for name, change := range map[string]func(*Object, *beaconWire){
		"number":  func(_ *Object, w *beaconWire) { w.Number = 2 },
		"time":    func(_ *Object, w *beaconWire) { w.At = 0 },
		"name":    func(o *Object, _ *beaconWire) { o.Name = "East/1" },
		"no body": func(o *Object, _ *beaconWire) { o.Kind = KindService },
	} {
		o, w := good, beaconWire{Number: 3, At: 1}
		change(&o, &w)
		var err error
		if o.Body, err = statement.Marshal(w); err != nil {
			t.Fatal(err)
		}
		if _, err := seal(a.key.secret, td, o); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}
