package app

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// segmentBucket: SPIFFE ID -> body of the authority's object that counts here.
const segmentBucket = "quarantine/segments"

// keptOut is which parts of the state of this region's nodes its authority keeps out. They are kept
// on disk: what was refused before a restart must not come in before the authority is heard again.
type keptOut struct {
	mu sync.RWMutex // guards of
	of map[spiffeid.ID]authority.Segments
}

// load brings back what counted in earlier runs.
func (s *keptOut) load(st *store.Store, log *slog.Logger) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of = map[spiffeid.ID]authority.Segments{}
	return st.View(func(tx *store.Tx) error {
		tx.Range(segmentBucket, nil, func(k, v []byte) bool {
			parts, err := authority.ParseSegments(v)
			if err != nil {
				log.Error("what the authority said of parts of a node's state cannot be read back; it will say so again", "origin", string(k), "err", err)
				return true
			}
			s.of[parts.Origin] = parts
			return true
		})
		return nil
	})
}

// covers reports whether a key is kept out.
func (s *keptOut) covers(origin spiffeid.ID, kind, name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.of[origin].Covers(kind + "/" + name)
}

// take has parts count from now on.
func (s *keptOut) take(parts authority.Segments) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[parts.Origin] = parts
}

// onSegments makes true what the region's authority says now about parts of an origin's state: they
// are kept out first, and on record then. What was refused is looked at again, as a part may be let
// back in.
func (a *App) onSegments(name string) error {
	s, ok := a.ownBook().Get(authority.KindSegments, name)
	if !ok {
		return nil // another region's
	}
	parts, err := s.Segments()
	if err != nil {
		return err
	}
	a.keptOut.take(parts)
	known := false
	err = a.store.Update(func(tx *store.Tx) error {
		if known = bytes.Equal(tx.Get(segmentBucket, []byte(name)), s.Body); known {
			return nil
		}
		body := map[string]any{"segments": name, "parts": "all of it", "reason": parts.Reason}
		if len(parts.Prefixes) > 0 {
			body["parts"] = "all but " + strings.Join(parts.Prefixes, ", ")
		}
		if err := tx.Put(segmentBucket, []byte(name), s.Body); err != nil {
			return err
		}
		return trail.Append(tx, trail.PeerRelease, body)
	})
	if err != nil {
		a.log.Error("what the authority says of parts of a node's state could not be recorded", "origin", name, "err", err)
		a.standing.gap(1, "segments of "+name)
	}
	if !known {
		a.log.Warn("the authority says which parts of a node's state are kept out", "origin", name, "parts", parts.Prefixes, "reason", parts.Reason)
		a.reconsider()
	}
	return nil
}

// Segment keeps a part of a node's state out, or lets it back in, where this node is the authority.
func (h handler) Segment(ctx context.Context, req *controlv1.SegmentRequest) (*controlv1.SegmentResponse, error) {
	c, err := h.decidable(req.Origin)
	if err != nil {
		return nil, err
	}
	if err := h.admin(ctx, "segment", map[string]any{"accused": c.Accused.String(), "prefix": req.Prefix, "lift": req.Lift, "reason": req.Reason}); err != nil {
		return nil, err
	}
	signed, err := h.authority.Segment(time.Now(), c.Accused, req.Prefix, req.Lift, req.Reason)
	if err != nil {
		return nil, h.unsigned(err)
	}
	h.onObject(signed.Raw)
	parts, err := signed.Segments()
	return &controlv1.SegmentResponse{View: h.view(ctx), Origin: c.Accused.String(), Prefixes: parts.Prefixes}, err
}
