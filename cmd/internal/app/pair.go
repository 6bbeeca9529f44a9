package app

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// A gossip session of the second version has two streams of one connection, one for
// what is urgent and one for the rest. Both are opened by the same side and begin with
// the same 8 bytes, drawn at random, so that the other side knows that they belong
// together. A peer that does not serve them is an older one: it gets one stream.

const pairWait = 5 * time.Second

var errUnpaired = errors.New("the second stream of the session did not come")

// pairToken is what two streams begin with.
type pairToken [8]byte

// pairs holds streams that wait for their other half, none longer than pairWait.
type pairs struct {
	mu   sync.Mutex // held for map work
	half map[half]chan *link.Stream
}

type half struct {
	peer  spiffeid.ID
	token pairToken
}

// place is where the two halves meet: the rest leaves its stream there for the urgent.
func (p *pairs) place(h half) chan *link.Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.half == nil {
		p.half = map[half]chan *link.Stream{}
	}
	at := p.half[h]
	if at == nil {
		at = make(chan *link.Stream)
		p.half[h] = at
	}
	return at
}

func (p *pairs) clear(h half) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.half, h)
}

func readToken(s *link.Stream) (t pairToken, err error) {
	_ = s.SetReadDeadline(time.Now().Add(pairWait))
	if _, err := io.ReadFull(s, t[:]); err != nil {
		return t, err
	}
	return t, s.SetReadDeadline(time.Time{})
}

// offer leaves the rest's stream for the urgent one.
func (p *pairs) offer(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
	t, err := readToken(s)
	if err != nil {
		s.Reset()
		return
	}
	select {
	case p.place(half{peer, t}) <- s:
	case <-ctx.Done():
		s.Reset()
	case <-time.After(pairWait):
		p.clear(half{peer, t})
		s.Reset()
	}
}

// await returns the stream that belongs to an urgent one.
func (p *pairs) await(ctx context.Context, peer spiffeid.ID, s *link.Stream) (*link.Stream, error) {
	t, err := readToken(s)
	if err != nil {
		return nil, err
	}
	h := half{peer, t}
	defer p.clear(h)
	select {
	case rest := <-p.place(h):
		return rest, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(pairWait):
		return nil, errUnpaired
	}
}

// openPair opens both streams of a session.
func openPair(ctx context.Context, conn *link.Conn) (urgent, rest *link.Stream, err error) {
	var t pairToken
	_, _ = rand.Read(t[:]) // never fails (crypto/rand)
	if urgent, err = conn.OpenStream(ctx, protoPair); err != nil {
		return nil, nil, err
	}
	if rest, err = conn.OpenStream(ctx, protoRest); err != nil {
		urgent.Reset()
		return nil, nil, err
	}
	for _, s := range []*link.Stream{urgent, rest} {
		if _, err = s.Write(t[:]); err != nil {
			urgent.Reset()
			rest.Reset()
			return nil, nil, err
		}
	}
	return urgent, rest, nil
}
