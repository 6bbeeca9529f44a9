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
	ParkedPart            // counts only with later ones: the rest of its snapshot, or up to the covered head
	Pruned                // older than what is kept
	UnknownOrigin         // no epoch key for its feed
	Expired               // past its certificate's end; a renewal may cover it
	Frozen                // the feed is closed at this point
	Uncovered             // its certificate has expired, and no checkpoint made in time covers it
	OverQuota             // too many records for now, or too much live state for good
	BadSnapshot           // a part that does not fit, or a record that names another snapshot
	Restricted            // the reader may not keep it, see Chain.Restrict
	BadSignature          // the relay's fault
	BodyMismatch          // the relay's fault
	Fork                  // proof
	ClockBack             // proof
	ForeignKey            // proof
	verdicts
)

var verdictNames = [verdicts]string{
	"unjudged", "admitted", "duplicate", "parked_gap", "parked_future", "parked_part", "pruned",
	"unknown_origin", "expired", "frozen", "uncovered", "over_quota", "snapshot", "restricted", "bad_signature", "body_mismatch", "fork", "clock_back", "foreign_key",
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

// Checked reports whether the signature was verified to come to the verdict.
func (v Verdict) Checked() bool {
	return v != Unjudged && v != Duplicate && v != UnknownOrigin && v != Frozen
}

// RelayFault reports whether the one who handed the record over failed to check
// it. It says nothing about the origin.
func (v Verdict) RelayFault() bool { return v == BadSignature || v == BodyMismatch }

// Proves reports whether the verdict comes with a proof against the origin.
func (v Verdict) Proves() bool { return v == Fork || v == ClockBack || v == ForeignKey }

// Reasons for verdicts, wrapped in Result.Err.
var (
	ErrBody     = errors.New("body is not the one the header was signed over")
	ErrUnknown  = errors.New("no epoch key for the feed")
	ErrExpired  = errors.New("record is dated past the end of its epoch certificate")
	ErrFrozen   = errors.New("the feed is frozen")
	ErrQuota    = errors.New("over the quota of the limits class")
	ErrFuture   = errors.New("record is dated in the future")
	ErrGap      = errors.New("records before this one are missing")
	ErrPart     = errors.New("the record counts only with later ones, which are missing")
	ErrPruned   = errors.New("the record is older than the snapshot held")
	ErrFork     = errors.New("two signed headers of one feed contradict each other")
	ErrSnapshot = errors.New("the record does not fit the snapshots of its feed")
	ErrClock    = errors.New("the record's clock does not grow")
)

// Result is a verdict with what led to it.
type Result struct {
	Verdict Verdict
	Record  Record
	Ops     []Op   // of an admitted or parked record
	Proof   []byte // when Verdict.Proves

	// Complete means that the record, Admitted, completes a snapshot: it takes
	// effect, and Chain.Start has moved, also that of older epochs.
	Complete bool
	// Parts are the records that waited for this one: they are admitted with it.
	Parts []Record

	Err error // the reason, for people; nil when admitted, a duplicate or restricted
}
