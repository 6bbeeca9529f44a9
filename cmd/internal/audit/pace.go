package audit

import (
	"fmt"
	"time"
)

// Pace says how a long check goes on: how far, how fast, and how long it will take at
// the rate so far. Its first second says nothing.
type Pace struct{ began, said time.Time }

// NewPace begins at a time.
func NewPace(now time.Time) *Pace { return &Pace{began: now, said: now} }

// every is how often Say has something to say.
const every = 200 * time.Millisecond

// Say is what to show after done of total; empty where it is too early.
func (p *Pace) Say(now time.Time, done, total uint64) string {
	spent := now.Sub(p.began)
	if spent < time.Second || now.Sub(p.said) < every || done == 0 || total < done {
		return ""
	}
	p.said = now
	rate := float64(done) / spent.Seconds()
	left := time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%d of %d leaves (%d %%), %.0f/s, %s left", done, total, 100*done/total, rate, left)
}
