package feed

import "errors"

// Verdict is the outcome of admission. The zero value admits nothing.
type Verdict uint8

const (
	Unjudged      Verdict = iota
	Admitted              // the record is the feed's new head
	Duplicate             // held or parked already
	ParkedGap             // waits for the records before it
	ParkedFuture          // waits for the reader's clock
	UnknownOrigin         // no epoch key for its feed
	Expired               // past its certificate's end; a renewal may cover it
	Frozen                // the feed is closed at this point
	OverQuota             // too many records for now, or too much live state for good
	BadSchema             // a value its kind does not allow
	BadSignature          // the relay's fault
	BodyMismatch          // the relay's fault
	Fork                  // proof
	ClockBack             // proof
	ForeignKey            // proof
	verdicts
)

var verdictNames = [verdicts]string{
	"unjudged", "admitted", "duplicate", "parked_gap", "parked_future", "unknown_origin", "expired", "frozen",
	"over_quota", "schema", "bad_signature", "body_mismatch", "fork", "clock_back", "foreign_key",
}

// String returns the verdict in snake case, for counters and the trail.
func (v Verdict) String() string {
	if v < verdicts {
		return verdictNames[v]
	}
	return verdictNames[Unjudged]
}

// Verdicts returns every verdict, for counters that start at zero.
func Verdicts() []Verdict {
	out := make([]Verdict, 0, verdicts)
	for v := Unjudged; v < verdicts; v++ {
		out = append(out, v)
	}
	return out
}

// RelayFault reports whether the one who handed the record over failed to check
// it. It says nothing about the origin.
func (v Verdict) RelayFault() bool { return v == BadSignature || v == BodyMismatch }

// Proves reports whether the verdict comes with a proof against the origin.
func (v Verdict) Proves() bool { return v == Fork || v == ClockBack || v == ForeignKey }

// Reasons for verdicts, wrapped in Result.Err.
var (
	ErrBody    = errors.New("body is not the one the header was signed over")
	ErrUnknown = errors.New("no epoch key for the feed")
	ErrExpired = errors.New("record is dated past the end of its epoch certificate")
	ErrFrozen  = errors.New("the feed is frozen")
	ErrQuota   = errors.New("over the quota of the limits class")
	ErrFuture  = errors.New("record is dated in the future")
	ErrGap     = errors.New("records before this one are missing")
	ErrFork    = errors.New("two signed headers of one feed contradict each other")
	ErrClock   = errors.New("the record's clock does not grow")
)

// Result is a verdict with what led to it.
type Result struct {
	Verdict Verdict
	Record  Record
	Ops     []Op   // of an admitted or parked record
	Proof   []byte // when Verdict.Proves
	Err     error  // the reason, for people; nil when admitted
}
