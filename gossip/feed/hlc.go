package feed

import "time"

// MaxAhead is how far a record's clock may run ahead of the reader's, unadjusted,
// before the record waits.
const MaxAhead = 500 * time.Millisecond

// HLC is a hybrid logical clock reading: Unix milliseconds in the upper 48 bits, a
// counter in the lower 16. It grows with every record of a feed.
type HLC uint64

// NewHLC returns the reading at t with counter zero.
func NewHLC(t time.Time) HLC { return HLC(max(t.UnixMilli(), 0)) << 16 }

// Time returns the reading's time, to the millisecond.
func (h HLC) Time() time.Time { return time.UnixMilli(int64(h >> 16)) }

// after returns the smallest reading at or after now that is above h.
func (h HLC) after(now time.Time) HLC { return max(NewHLC(now), h+1) }

// Lease says how fresh the word of an origin is. The zero value is the worst.
type Lease uint8

const (
	LeaseExpired Lease = iota // kept, and not to be served
	LeaseStale
	LeaseDelayed
	LeaseLive
)

func (l Lease) String() string {
	switch l {
	case LeaseLive:
		return "live"
	case LeaseDelayed:
		return "delayed"
	case LeaseStale:
		return "stale"
	}
	return "expired"
}

// LeaseAt returns the lease of an origin whose newest record has this clock,
// kind and ttl.
func LeaseAt(h HLC, kind RecordKind, ttl uint32, now time.Time) Lease {
	age, term := now.Sub(h.Time()), time.Duration(ttl)*time.Second
	switch {
	case kind == Leave || kind == 0:
		return LeaseExpired
	case term == 0 || age <= term:
		return LeaseLive
	case age <= 2*term:
		return LeaseDelayed
	case age <= 8*term:
		return LeaseStale
	}
	return LeaseExpired
}
