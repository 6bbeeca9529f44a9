package authority

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// MaxSegments is how many parts of one origin may be kept out at once.
const MaxSegments = 64

const maxSegment = 256 // bytes of a prefix

// Segments are the parts of an origin's state that are in quarantine, while the origin is not: of
// what it writes there nothing is taken in, and what was there before is suspect. Each version says
// all of them; none means that all are let back in.
type Segments struct {
	Origin   spiffeid.ID
	Prefixes []string  // up to MaxSegments, sorted: of operators' kinds, see Covers
	At       time.Time // of this version, to the second
	Reason   string    // of this version, at most 256 bytes
}

type segmentsWire struct {
	Origin   string   `cbor:"1,keyasint"`
	Prefixes []string `cbor:"2,keyasint,omitempty"`
	At       int64    `cbor:"3,keyasint"`
	Reason   string   `cbor:"4,keyasint,omitempty"`
}

// Covers reports whether a key of the origin, as <kind>/<name>, is in one of the parts: x-route is all
// of that kind, x-route/north one key, x-route/no* all whose names begin so.
func (s Segments) Covers(key string) bool {
	return slices.ContainsFunc(s.Prefixes, func(p string) bool {
		if begins, open := strings.CutSuffix(p, "*"); open {
			return strings.HasPrefix(key, begins)
		}
		rest, ok := strings.CutPrefix(key, p)
		return ok && (rest == "" || rest[0] == '/')
	})
}

// checkSegment refuses what is no part: whoever could keep out a node's own words, such as evidence
// or its roster entry, would have it quarantined by a side door.
func checkSegment(p string) error {
	body := strings.TrimSuffix(p, "*")
	if !strings.HasPrefix(p, "x-") || len(p) > maxSegment || strings.HasSuffix(p, "/") || strings.Count(p, "/") > 1 || strings.Contains(body, "*") || !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: %.300q: want x-<kind>, x-<kind>/<name> or x-<kind>/<beginning of names>*, at most %d bytes", quarantine.ErrSegment, p, maxSegment)
	}
	return nil
}

func (s Segments) encode() ([]byte, error) {
	b, err := statement.Marshal(segmentsWire{s.Origin.String(), s.Prefixes, s.At.Unix(), s.Reason})
	if err != nil {
		return nil, err
	}
	_, err = ParseSegments(b)
	return b, err
}

// ParseSegments reads the body of an object of KindSegments, which verified. Errors wrap ErrMalformed.
func ParseSegments(b []byte) (Segments, error) {
	var w segmentsWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return Segments{}, fmt.Errorf("%w: segments: %w", ErrMalformed, err)
	}
	origin, err := spiffeid.FromString(w.Origin)
	switch {
	case err != nil:
		return Segments{}, fmt.Errorf("%w: segments: origin: %w", ErrMalformed, err)
	case len(w.Prefixes) > MaxSegments:
		return Segments{}, fmt.Errorf("%w: segments: %d, at most %d", ErrMalformed, len(w.Prefixes), MaxSegments)
	case w.At < 0 || w.At > maxUnix || len(w.Reason) > maxRollbackReason:
		return Segments{}, fmt.Errorf("%w: segments: at or reason out of bounds", ErrMalformed)
	}
	for i, p := range w.Prefixes {
		if err := checkSegment(p); err != nil {
			return Segments{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if i > 0 && w.Prefixes[i-1] >= p {
			return Segments{}, fmt.Errorf("%w: segments: %q is out of order", ErrMalformed, p)
		}
	}
	return Segments{origin, w.Prefixes, time.Unix(w.At, 0).UTC(), w.Reason}, nil
}

// Segments returns the parts in an object of KindSegments.
func (s Signed) Segments() (Segments, error) {
	if s.Kind != KindSegments {
		return Segments{}, fmt.Errorf("%w: %q is no list of segments", ErrMalformed, s.Kind)
	}
	return ParseSegments(s.Body)
}

// Segment keeps a part of an origin's state out, or lets it back in (lift). What is so already
// makes no new version. Errors wrap quarantine.ErrSegment, ErrMalformed, ErrForeign or the store's.
func (a *Authority) Segment(now time.Time, origin spiffeid.ID, prefix string, lift bool, reason string) (Signed, error) {
	if err := checkSegment(prefix); err != nil {
		return Signed{}, err
	}
	return a.publish(now, KindSegments, origin.String(), func(*store.Tx) ([]byte, error) {
		next := Segments{Origin: origin, At: now, Reason: reason}
		have, held := a.book.newestOf(slot{a.level, KindSegments, origin.String()})
		if held {
			before, err := have.Segments()
			if err != nil {
				return nil, err
			}
			next.Prefixes = slices.Clone(before.Prefixes)
		}
		i, in := slices.BinarySearch(next.Prefixes, prefix)
		switch {
		case in && !lift:
			return have.Body, nil
		case lift && !in:
			return nil, fmt.Errorf("%w: nothing of %s below %s is kept out", quarantine.ErrSegment, origin, prefix)
		case lift:
			next.Prefixes = slices.Delete(next.Prefixes, i, i+1)
		case len(next.Prefixes) == MaxSegments:
			return nil, fmt.Errorf("%w: %d parts of %s are kept out, the most there may be: quarantine or revoke the node", quarantine.ErrSegment, MaxSegments, origin)
		default:
			next.Prefixes = slices.Insert(next.Prefixes, i, prefix)
		}
		return next.encode()
	})
}
