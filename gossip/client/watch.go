package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

const (
	firstPause = 100 * time.Millisecond // before a broken stream is opened again
	maxPause   = 10 * time.Second
	// quiet is how long a stream may say nothing before it counts as broken: a
	// sidecar speaks at least every ten seconds.
	quiet = 30 * time.Second
)

// errCompacted means the sidecar cannot go on from a revision.
var errCompacted = errors.New("the changes since that revision are not kept any more")

// Kind says what an event is.
type Kind string

// The kinds of event.
const (
	// Written: the item has another value, or another standing.
	Written Kind = "written"
	// Deleted: the item is what was deleted.
	Deleted Kind = "deleted"
	// Synced: everything up to Revision has been told. It comes when all that was
	// present at first has been yielded, and then now and again as a sign of life.
	Synced Kind = "synced"
	// Reset: it was not possible to go on from where the watch was. What follows is
	// everything present, up to the next Synced; what is not in it is gone.
	Reset Kind = "reset"
	// Lost: the sidecar does not answer, Err says why. The watch tries again; until
	// the next event of another kind, what the program knows grows old.
	Lost Kind = "lost"
)

// Event is one thing a watch has to say.
type Event struct {
	Kind     Kind
	Item     Item   // of Written and Deleted
	Revision uint64 // to go on from
	View     View   // of all but Reset and Lost
	Err      error  // of Lost
}

// Watch yields what changes among the keys that begin with prefix, after a revision
// that List or an event gave; from 0 it yields everything present first. It goes on
// until the caller stops or ctx ends, over restarts of the sidecar too. The only
// error it yields, last, is ErrRequest: the prefix is none.
func (c *Client) Watch(ctx context.Context, prefix string, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		pause, told := firstPause, false
		for {
			err := c.follow(ctx, prefix, &from, func(e Event) bool {
				pause, told = firstPause, true
				return yield(e, nil)
			})
			switch {
			case ctx.Err() != nil || errors.Is(err, errStopped):
				return
			case errors.Is(err, ErrRequest):
				yield(Event{}, err)
				return
			case errors.Is(err, errCompacted):
				from, told = 0, true
			case !yield(Event{Kind: Lost, Revision: from, Err: err}, nil):
				return
			}
			if from == 0 && told { // what is present is told once more
				if told = false; !yield(Event{Kind: Reset}, nil) {
					return
				}
			}
			if errors.Is(err, errCompacted) {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, maxPause)
		}
	}
}

// again opens a stream for as long as the caller wants it: follow runs it until it breaks,
// and calls told with all it hears; lost hears why it broke; bad, that it can never work.
func again(ctx context.Context, follow func(told func()) error, lost func(error) bool, bad func(error)) {
	pause := firstPause
	for {
		err := follow(func() { pause = firstPause })
		switch {
		case ctx.Err() != nil || errors.Is(err, errStopped):
			return
		case errors.Is(err, ErrRequest):
			bad(err)
			return
		case !lost(err):
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// errStopped means the caller wants no more.
var errStopped = errors.New("stopped")

// follow reads one stream until it breaks, and moves from along.
func (c *Client) follow(ctx context.Context, prefix string, from *uint64, yield func(Event) bool) error {
	beginning := *from == 0 // what is present comes in no order of revisions
	return receive(ctx, func(ctx context.Context) (*connect.ServerStreamForClient[statev1.WatchResponse], error) {
		return c.state.Watch(ctx, &statev1.WatchRequest{Prefix: prefix, From: *from})
	}, func(m *statev1.WatchResponse) (err error) {
		e := Event{Kind: Synced, Revision: m.GetRevision(), View: viewOf(m.GetView())}
		if m.GetItem() != nil {
			e.Kind = Written
			if m.GetDeleted() {
				e.Kind = Deleted
			}
			if e.Item, err = itemOf(m.GetItem()); err != nil {
				return err
			}
		}
		if beginning = beginning && e.Kind != Synced; beginning {
			e.Revision = 0 // not to go on from: others may be missing
		} else {
			*from = e.Revision
		}
		if !yield(e) {
			return errStopped
		}
		return nil
	})
}

// receive opens one stream and reads it until it breaks, falls silent, or each fails.
func receive[M any](ctx context.Context, open func(context.Context) (*connect.ServerStreamForClient[M], error), each func(*M) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(quiet, func() { cancel(fmt.Errorf("%w: nothing heard for %s", ErrUnreachable, quiet)) })
	defer alive.Stop()
	stream, err := open(ctx)
	if err != nil {
		return explain(err)
	}
	defer stream.Close()
	for stream.Receive() {
		alive.Reset(quiet)
		if err := each(stream.Msg()); err != nil {
			return err
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err := stream.Err(); err != nil {
		return explain(err)
	}
	return fmt.Errorf("%w: it ended the stream", ErrUnreachable)
}
