package replica

import "time"

const (
	budgetSpan  = 2 * time.Second // what was not used so long ago is lost
	leastBudget = 256             // bytes a second: less would not carry a header

	packet         = 1200 // what is written at once goes in packets of about so many bytes,
	packetOverhead = 60   // to each of which UDP, IP and QUIC add so many
)

// overhead is what goes over the line on top of so many bytes written at once.
func overhead(bytes int) int { return (bytes + packet - 1) / packet * packetOverhead }

// budget is a token bucket of bytes that knows no clock. It is spent by whole frames,
// which may be larger than what is there: the rest is owed. State and bulk wait until
// nothing is owed. The two urgent classes may owe more, so that what went before them
// does not stop them, but not without end. The zero value has no limit.
type budget struct {
	rate   float64 // bytes a second; 0: no limit
	tokens float64
	at     time.Time
}

// limit sets the rate, in bytes a second. The bucket is full at first.
func (b *budget) limit(rate uint64, now time.Time) {
	b.rate, b.at = 0, now
	if rate > 0 {
		b.rate = float64(max(rate, leastBudget))
	}
	b.tokens = b.most()
}

func (b *budget) most() float64 { return b.rate * budgetSpan.Seconds() }

// floor is what must be left for a class to be sent.
func (b *budget) floor(c class) float64 {
	if c >= classState {
		return 0
	}
	return -b.most() - maxFrame
}

// wait returns how long frames of a class have to wait; zero: none does.
func (b *budget) wait(c class, now time.Time) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.tokens = min(b.most(), b.tokens+b.rate*max(0, now.Sub(b.at)).Seconds())
	b.at = now
	if short := b.floor(c) - b.tokens; short > 0 {
		return max(time.Duration(short/b.rate*float64(time.Second)), time.Millisecond)
	}
	return 0
}

func (b *budget) spend(bytes int) {
	if b.rate > 0 {
		b.tokens -= float64(bytes)
	}
}

// idle reports whether the budget has lain unused.
func (b *budget) idle(now time.Time) bool {
	b.wait(classState, now)
	return b.rate > 0 && b.tokens >= b.most()*9/10
}
