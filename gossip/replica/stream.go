package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	readAtOnce  = 16 << 10
	writeAtOnce = 16 << 10 // what is written cannot be overtaken any more

	pieceTime  = 125 * time.Millisecond // what a budget lets through in it is written at once,
	pieceLeast = 1 << 10                // and no less bytes than these
)

// Attach runs one gossip session of the first version with an authenticated peer over
// conn, which it closes, until ctx ends, the stream does, or either side gives up. Both
// sides call it on their end of one stream; let one side, say the smaller ID, open it. Who
// does not want the session any more ends ctx with the cause io.EOF: both sides then part
// in good order, and neither counts as debt what the other lacks. The error wraps ErrRelay, ErrSlow, ErrStopped, ctx's cause or the stream's error.
func (r *Replica) Attach(ctx context.Context, peer spiffeid.ID, conn io.ReadWriteCloser) error {
	return r.run(ctx, peer, conn)
}

// AttachPair is Attach for a session of the second version: one that begins with terms,
// and has a stream of its own for what is urgent, so that no other frame is in its way.
func (r *Replica) AttachPair(ctx context.Context, peer spiffeid.ID, urgent, rest io.ReadWriteCloser) error {
	return r.run(ctx, peer, urgent, rest)
}

func (r *Replica) run(ctx context.Context, peer spiffeid.ID, conns ...io.ReadWriteCloser) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	hangUp := func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	defer hangUp()
	s := newSession(fail)
	s.paired = len(conns) > 1
	if err := r.do(ctx, func() error { r.attach(peer, s, r.cfg.Now()); return nil }); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, hangUp)
	defer stop()
	var wait sync.WaitGroup
	for i, conn := range conns {
		first, last := urgent, rest
		if s.paired {
			first, last = lane(i), lane(i)
		}
		wait.Go(func() { fail(s.write(ctx, conn, first, last, r.cfg.Now)) })
		wait.Go(func() { fail(r.read(ctx, s, conn)) })
	}
	wait.Wait()
	err := context.Cause(ctx)
	parted := errors.Is(err, io.EOF)
	r.post(func() { r.detach(s, parted, r.cfg.Now()) })
	if !parted {
		return fmt.Errorf("gossip with %s: %w", peer, err)
	}
	return nil
}

// read passes the peer's frames to the loop until the stream ends.
func (r *Replica) read(ctx context.Context, s *session, conn io.Reader) error {
	in := bufio.NewReaderSize(conn, readAtOnce)
	for {
		t, body, err := readFrame(in)
		if errors.Is(err, errFrame) {
			return fmt.Errorf("%w: %w", ErrRelay, err)
		}
		if err != nil {
			return err
		}
		//bailiwick:check TestFloodThroughOneRelay
		if err := s.bucket.Wait(ctx); err != nil {
			return err
		}
		select {
		case r.events <- func() { r.receive(s, t, body, r.cfg.Now()) }:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.done:
			return r.stopped()
		}
	}
}

// write sends what the loop queues for some lanes until ctx ends.
func (s *session) write(ctx context.Context, conn io.Writer, first, last lane, now func() time.Time) error {
	var buf []byte
	for {
		var wait time.Duration
		if buf, wait = s.out.take(first, last, buf[:0], writeAtOnce, now()); len(buf) > 0 {
			if err := s.pace(ctx, conn, buf, last); err != nil {
				return err
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-s.out.ready[first]:
		case <-s.out.ready[last]:
		case <-due:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pace writes b, under a budget piece by piece: a large frame at once would be in the way
// of what is urgent in the queues of the path.
func (s *session) pace(ctx context.Context, conn io.Writer, b []byte, last lane) error {
	for len(b) > 0 {
		n, after := len(b), time.Duration(0)
		if rate := s.out.rate(); rate > 0 && last == rest {
			n = min(n, pieceOf(rate))
			after = time.Duration(float64(n) / rate * float64(time.Second))
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 || after == 0 {
			continue
		}
		if err := pause(ctx, after); err != nil {
			return err
		}
	}
	return nil
}

// pieceOf is how many bytes are written at once under a budget.
func pieceOf(rate float64) int { return max(pieceLeast, int(rate*pieceTime.Seconds())) }
