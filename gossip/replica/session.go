package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A relay's bucket: what one session may send us, before it is slowed down.
const (
	framesPerSecond = 5000
	framesAtOnce    = 10000
)

const writeAtOnce = 64 << 10

// session is one attached stream.
type session struct {
	peer *peer
	out  *queue
	fail context.CancelCauseFunc

	// Owned by the replica's loop.
	certs    map[feed.FeedID]time.Time // NotAfter of the certificate sent
	disputed map[feed.FeedID]bool      // the peer has another certificate for it than we
	whole    feed.Frontier             // pieces of the peer's frontier, until the last
	asked    int                       // pulls under way
	told     time.Time                 // when our frontier was sent last
	lagging  bool                      // state frames were dropped
}

// Attach runs one gossip session with an authenticated peer over conn, which it
// closes, until ctx ends, the stream does, or either side gives up. Both sides
// call it on their end of one stream; let one side, say the smaller ID, open it. The
// error wraps ErrRelay, ErrSlow, ErrStopped, ctx's cause or the stream's error.
func (r *Replica) Attach(ctx context.Context, peer spiffeid.ID, conn io.ReadWriteCloser) error {
	defer conn.Close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	s := &session{
		out: newQueue(), fail: fail,
		certs: map[feed.FeedID]time.Time{}, disputed: map[feed.FeedID]bool{}, whole: feed.Frontier{},
	}
	if err := r.do(ctx, func() error { r.attach(peer, s); return nil }); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		fail(s.write(ctx, conn))
	}()
	fail(r.read(ctx, s, conn))
	<-written
	r.post(func() { r.detach(s) })
	if err := context.Cause(ctx); !errors.Is(err, io.EOF) {
		return fmt.Errorf("gossip with %s: %w", peer, err)
	}
	return nil
}

// read passes the peer's frames to the loop until the stream ends.
func (r *Replica) read(ctx context.Context, s *session, conn io.Reader) error {
	in := bufio.NewReaderSize(conn, writeAtOnce)
	bucket := rate.NewLimiter(framesPerSecond, framesAtOnce)
	for {
		t, body, err := readFrame(in)
		if errors.Is(err, errFrame) {
			return fmt.Errorf("%w: %w", ErrRelay, err)
		}
		if err != nil {
			return err
		}
		if err := bucket.Wait(ctx); err != nil {
			return err
		}
		select {
		case r.events <- func() { r.receive(s, t, body) }:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.done:
			return r.stopped()
		}
	}
}

// write sends what the loop queues until ctx ends.
func (s *session) write(ctx context.Context, conn io.Writer) error {
	var buf []byte
	for {
		select {
		case <-s.out.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			if buf = s.out.take(buf[:0], writeAtOnce); len(buf) == 0 {
				break
			}
			if _, err := conn.Write(buf); err != nil {
				return err
			}
		}
	}
}

// send queues a frame. A peer that does not keep up loses state and bulk.
func (s *session) send(c class, b []byte) {
	switch {
	case s.out.push(c, b):
	case c >= classState:
		s.lagging = true
	default:
		s.fail(ErrSlow)
	}
}

// blame ends the session for what the peer should have refused.
func (s *session) blame(err error) { s.fail(fmt.Errorf("%w: %w", ErrRelay, err)) }

func (r *Replica) attach(id spiffeid.ID, s *session) {
	s.peer = r.peers[id]
	if s.peer == nil {
		s.peer = &peer{id: id, ahead: map[feed.FeedID]feed.Head{}, signed: map[feed.FeedID]feed.Head{}}
		r.peers[id] = s.peer
	}
	s.peer.sessions++
	r.sessions[s] = true
	r.greet(s)
}

// greet sends the own certificate and seal, where there are any, and the root.
func (r *Replica) greet(s *session) {
	if r.writer != nil && r.cfg.Carry(s.peer.id, r.cfg.Self) {
		if seal, err := r.writer.Seal(); err == nil { // no seal: nothing written yet
			r.sendCert(s, r.writer.Feed())
			s.send(classControl, frame(frameSeal, seal))
		}
	}
	_, root := r.frontier(s.peer.id)
	s.send(classControl, frame(frameRoot, root[:]))
}

func (r *Replica) detach(s *session) {
	if r.sessions[s] {
		delete(r.sessions, s)
		s.peer.sessions--
		for f, p := range r.pulls {
			if p.from == s {
				delete(r.pulls, f)
			}
		}
	}
}
