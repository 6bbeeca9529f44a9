package summary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

var (
	// ErrFlood means a peer sent more frames than the protocol needs.
	ErrFlood = errors.New("gateway sends too much")

	// ErrSilent means a peer sent nothing, or took nothing, for 15 s.
	ErrSilent = errors.New("gateway is silent")
)

const (
	silence    = 15 * time.Second
	frameRate  = 20   // frames a second, sustained: 0.5 summaries, their acks, changes
	frameBurst = 2048 // the statements of a large region at the start of a session
)

// Exchange runs one session with a gateway of another region until ctx ends or
// either side fails, and closes conn. peer is the authenticated identity at its
// other end. Nil means that the peer ended the session. Errors wrap ErrMalformed,
// ErrForeign or ErrFlood when the peer broke the protocol; the others are
// the network's.
func (g *Gateway) Exchange(ctx context.Context, peer spiffeid.ID, conn io.ReadWriteCloser) error {
	defer conn.Close()
	if peer.IsZero() || peer.TrustDomain() == g.cfg.Self.TrustDomain() {
		return fmt.Errorf("%w: %q is no gateway of another region", ErrForeign, peer)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // wakes both directions
	defer stop()
	g.ledger.session(peer, +1)
	defer g.ledger.session(peer, -1)

	s := &session{g: g, peer: peer, conn: conn, acks: make(chan Summary, 1), wake: make(chan struct{}, 1), sent: map[[32]byte]bool{}}
	g.mu.Lock()
	g.sessions[s.wake] = true
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.sessions, s.wake)
		g.mu.Unlock()
	}()

	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(s.receive(ctx, cancel))
	}()
	cancel(s.send(ctx, cancel))
	<-done
	if err := context.Cause(ctx); !errors.Is(err, io.EOF) {
		return fmt.Errorf("summary session with %s: %w", peer, err)
	}
	return nil
}

// session is one stream. receive and send each run in one goroutine.
type session struct {
	g    *Gateway
	peer spiffeid.ID
	conn io.ReadWriteCloser
	acks chan Summary  // from receive to send; the newest replaces an unsent one
	wake chan struct{} // own summary changed

	number uint64            // newest own number sent; owned by send
	sent   map[[32]byte]bool // statements sent and still current; owned by send
}

func (s *session) receive(ctx context.Context, cancel context.CancelCauseFunc) error {
	quiet := time.AfterFunc(silence, func() { cancel(ErrSilent) })
	defer quiet.Stop()
	allowed := rate.NewLimiter(frameRate, frameBurst)
	for {
		kind, body, err := readFrame(s.conn)
		if err != nil {
			return err
		}
		quiet.Reset(silence)
		if !allowed.Allow() {
			return ErrFlood
		}
		if err := s.take(time.Now(), kind, body); err != nil {
			return err
		}
	}
}

// take handles one frame. Only a breach of protocol is an error.
func (s *session) take(now time.Time, kind byte, body []byte) error {
	count := func(kind, verdict string) { s.g.counter.WithLabelValues(kind, verdict).Inc() }
	switch kind {
	case frameAck:
		_, number, err := parseAck(body, s.g.cfg.Self)
		if err != nil {
			return err
		}
		count("ack", "accepted")
		s.g.ledger.ack(now, s.peer, number)
	case frameStatement:
		if s.g.cfg.OnStatement == nil {
			return nil
		}
		if err := s.g.cfg.OnStatement(s.peer, body); err != nil {
			count("statement", "refused")
			s.g.cfg.Log.Warn("statement from another region refused", "peer", s.peer, "error", err)
			return nil
		}
		count("statement", "accepted")
	case frameSummary:
		got, err := Verify(body, s.g.cfg.Keys)
		if errors.Is(err, ErrSigner) { // perhaps our trust record is behind: no ack, no blame
			count("summary", "unknown-signer")
			s.g.cfg.Log.Warn("summary refused", "peer", s.peer, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
		if got.Gateway.TrustDomain() != s.peer.TrustDomain() {
			return fmt.Errorf("%w: %s carries one of %s", ErrForeign, s.peer, got.Gateway)
		}
		changed, err := s.g.cfg.Tracker.add(now, got)
		if err != nil {
			count("summary", "refused")
			s.g.cfg.Log.Warn("summary refused", "peer", s.peer, "error", err)
			return nil
		}
		count("summary", "accepted")
		if changed && s.g.cfg.OnSummary != nil {
			s.g.cfg.OnSummary(s.peer, got)
		}
		select {
		case <-s.acks: // replaced by a newer one
		default:
		}
		s.acks <- got
	}
	return nil
}

func (s *session) send(ctx context.Context, cancel context.CancelCauseFunc) error {
	stuck := time.AfterFunc(silence, func() { cancel(ErrSilent) })
	defer stuck.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var acked Summary
	for {
		out, err := s.news()
		if err != nil {
			return err
		}
		if acked.Number != 0 {
			body, err := encodeAck(acked)
			if err != nil {
				return err
			}
			out = appendFrame(out, frameAck, body)
			acked = Summary{}
		}
		if len(out) > 0 {
			stuck.Reset(silence)
			if _, err := s.conn.Write(out); err != nil {
				return err
			}
		}
		stuck.Stop()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case acked = <-s.acks:
		case <-s.wake:
		case <-tick.C: // statements have no signal of their own
		}
	}
}

// news returns the frames of what the peer has not been sent in this session.
func (s *session) news() (out []byte, err error) {
	if own, ok := s.g.Own(); ok && own.Number != s.number {
		out = appendFrame(out, frameSummary, own.Raw)
		s.number = own.Number
	}
	if s.g.cfg.Statements == nil {
		return out, nil
	}
	current := map[[32]byte]bool{}
	for _, raw := range s.g.cfg.Statements() {
		if len(raw) == 0 || len(raw) > maxFrame {
			return nil, fmt.Errorf("own statement of %d bytes, at most %d", len(raw), maxFrame)
		}
		key := statement.Digest(raw)
		if !s.sent[key] {
			out = appendFrame(out, frameStatement, raw)
		}
		current[key] = true
	}
	s.sent = current
	return out, nil
}
