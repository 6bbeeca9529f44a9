package authority

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Beacon is a checkpoint of the region's signed state, and a value that nobody
// could know before its time: what is in the frontier was there before it, and what
// is bound to it was made after it. Its object is named by the region's label.
type Beacon struct {
	Root   [32]byte // of the frontier, as the authority held it
	Feeds  uint64   // that the root is over
	Random [32]byte
	Number uint64    // grows by one; the version of its object
	At     time.Time // when it was made by the authority's clock, whole seconds
}

type beaconWire struct {
	Random [32]byte `cbor:"1,keyasint"`
	Number uint64   `cbor:"2,keyasint"`
	At     int64    `cbor:"3,keyasint"` // Unix seconds
	Root   [32]byte `cbor:"4,keyasint"`
	Feeds  uint64   `cbor:"5,keyasint"`
}

func parseBeacon(b []byte) (Beacon, error) {
	var w beaconWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return Beacon{}, fmt.Errorf("%w: beacon: %w", ErrMalformed, err)
	}
	if w.At <= 0 {
		return Beacon{}, fmt.Errorf("%w: beacon: at is %d", ErrMalformed, w.At)
	}
	return Beacon{Root: w.Root, Feeds: w.Feeds, Random: w.Random, Number: w.Number, At: time.Unix(w.At, 0)}, nil
}

func (b Beacon) belongs(o Object) error {
	if b.Number != o.Version || !label(o.Name) {
		return fmt.Errorf("%w: object %q version %d holds beacon %d", ErrMalformed, o.Name, o.Version, b.Number)
	}
	return nil
}

// Beacon returns the beacon in an object of KindBeacon.
func (s Signed) Beacon() (Beacon, error) {
	if s.Kind != KindBeacon {
		return Beacon{}, fmt.Errorf("%w: %q is no beacon", ErrMalformed, s.Kind)
	}
	return parseBeacon(s.Body)
}

// Beacon publishes a new beacon for the region, over a frontier of so many feeds.
func (a *Authority) Beacon(now time.Time, region string, root [32]byte, feeds uint64) (Signed, error) {
	w := beaconWire{At: now.Unix(), Root: root, Feeds: feeds}
	_, _ = rand.Read(w.Random[:]) // never fails
	return a.publish(now, KindBeacon, region, func(*store.Tx) ([]byte, error) {
		have, _ := a.book.newestOf(slot{a.level, KindBeacon, region}) // publish holds the lock
		w.Number = have.Version + 1
		return statement.Marshal(w)
	})
}
