package replica

import (
	"cmp"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// What one session's wants may have read of the store: the loop does it, and everything
// else waits meanwhile. A second's worth may be read at once.
const (
	answerBytes = 8 << 20 // a second
	answerRange = 4 << 10 // what a range costs beside its records: certificate, headers
)

// receiveWant answers from the store, as far as there is room. Who asks for more than
// its share is told where the answer ends, and asks again.
func (r *Replica) receiveWant(s *session, body []byte, fetch bool, now time.Time) error {
	wants, err := parseWant(body)
	if err != nil {
		return err
	}
	for _, w := range wants {
		if w.to > w.from {
			s.served = now
		}
		if !r.cfg.Carry(s.peer.id, w.feed.Origin) {
			continue
		}
		next, err := r.answer(s, w, fetch, now)
		if err != nil {
			r.cfg.Log.Error("answer a want", "feed", w.feed.String(), "error", err)
		}
		if next <= w.to && !s.send(classState, endFrame(w.feed, next)) {
			return nil
		}
	}
	return nil
}

// answer sends records that are wanted, and returns the number of the first that it
// did not.
func (r *Replica) answer(s *session, w want, fetch bool, now time.Time) (next uint64, err error) {
	c := r.chains[w.feed.Origin]
	if c == nil {
		return w.from, nil
	}
	if s.out.full() || !s.answers.AllowN(now, answerRange) {
		return w.from, nil
	}
	head, start := c.Head(w.feed.Epoch), c.Start(w.feed.Epoch)
	if head.Seq < w.from {
		return w.from, nil
	}
	r.sendCert(s, w.feed, classState)
	if s.terms.Mode == Headers && !fetch {
		r.sendHeader(s, w.feed, head.Seq)
		return w.to + 1, nil // that is all that was asked for
	}
	first, last := max(w.from, start), min(w.to, head.Seq)
	gaps := s.unsent(w.feed, first, last)
	if first <= last && len(gaps) == 0 {
		return last + 1, nil // it is on its way
	}
	before, _ := c.At(w.feed.Epoch, w.from-1)
	if w.from < start {
		r.sendHeader(s, w.feed, w.from) // does the asker's history meet ours?
	}
	if w.from < start || w.to < head.Seq || head.Seq-w.from >= pullAtOnce || head.Bytes-before.Bytes > pullBytes {
		if anchor := c.Anchor(w.feed.Epoch); anchor < head.Seq {
			r.sendHeader(s, w.feed, anchor)
		}
		r.sendHeader(s, w.feed, head.Seq)
	} // else the records say as much
	if w.to < start {
		return w.from, nil
	}
	return r.sendRecords(s, w.feed, gaps, last, now)
}

// sendRecords sends records as far as there is room, and returns the number of the first up
// to last that neither went nor is on its way.
func (r *Replica) sendRecords(s *session, f feed.FeedID, gaps []span, last uint64, now time.Time) (next uint64, err error) {
	sent, size := 0, 0
	for _, gap := range gaps {
		next = gap.from
		_, place := s.out.passed(classBulk)
		err = r.scan(f, gap.from, func(rec feed.Record) (bool, error) {
			if rec.Seq > gap.to {
				return false, nil
			}
			//bailiwick:check TestWantOfEverything/one_range_again_and_again
			if sent == pullAtOnce || size > pullBytes || !s.answers.AllowN(now, len(rec.Bytes())) {
				return false, nil
			}
			if r.withheld(s, rec) {
				r.sendHeader(s, f, rec.Seq)
				return false, nil
			}
			if !s.send(classBulk, frame(frameRecord, rec.Bytes())) {
				return false, nil
			}
			next = rec.Seq + 1
			sent++
			size += len(rec.Bytes())
			return true, nil
		})
		if next > gap.from {
			s.answered[f] = append(s.answered[f], answered{span{gap.from, next - 1}, place})
		}
		if err != nil || next <= gap.to {
			return next, err
		}
	}
	return last + 1, nil
}

// span is a range of a feed's records, the last included.
type span struct{ from, to uint64 }

// answered is a span that was sent as bulk, the first of it at a place in the queue.
type answered struct {
	span
	place uint64
}

// unsent returns what of a range does not wait for the peer yet. A peer behind a link
// slower than its patience asks again for what is on its way: to send that again would
// leave less of the link for it every time.
func (s *session) unsent(f feed.FeedID, from, to uint64) (gaps []span) {
	left, _ := s.out.passed(classBulk)
	waits := s.answered[f][:0]
	for _, a := range s.answered[f] {
		if gone := less(left, a.place); gone <= a.to-a.from {
			waits = append(waits, answered{span{a.from + gone, a.to}, a.place + gone})
		}
	}
	if s.answered[f] = waits; len(waits) == 0 {
		delete(s.answered, f)
	}
	slices.SortFunc(waits, func(a, b answered) int { return cmp.Compare(a.from, b.from) })
	for _, a := range waits {
		if a.from > from && from <= to {
			gaps = append(gaps, span{from, min(a.from-1, to)})
		}
		from = max(from, a.to+1)
	}
	if from <= to {
		gaps = append(gaps, span{from, to})
	}
	return gaps
}

// sendHeader sends a header by the same stream as the records it goes ahead of.
func (r *Replica) sendHeader(s *session, f feed.FeedID, seq uint64) {
	if h := r.statementAt(f, seq); h != nil {
		s.send(classState, frame(frameHeader, h))
	}
}
