package dev

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// gossipProtocol is how nodes name the sessions of gossip/replica. Frames are its
// package doc's.
const (
	gossipProtocol = "gossip/1"
	frameCert      = 1
	frameRecord    = 5
)

// offerBy is for how long a victim with a smaller ID may take to open a session.
const offerBy = 3 * time.Second

// liar is a hostile process that is connected under a stolen name.
type liar struct {
	*loot
	node    Node
	link    *link.Link
	offered chan *link.Stream // sessions that victims open
	conns   []*link.Conn
	streams []*link.Stream
	stories [][]byte // one record for each stream, all with one number
}

// approach opens a gossip session with each victim, under the stolen name and from
// an address of its own.
func (l *loot) approach(ctx context.Context, n Node, victims ...Node) (*liar, error) {
	own, err := link.Listen(link.Config{
		Listen: "127.0.0.1:0", SVID: l.svid, Bundles: l.trust,
		Authorize: func(spiffeid.ID) error { return nil },
	})
	if err != nil {
		return nil, err
	}
	who := &liar{loot: l, node: n, link: own, offered: make(chan *link.Stream)}
	own.Handle(gossipProtocol, who.offer)
	for _, v := range victims {
		if err := who.meet(ctx, v); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", v.Name, err), own.Close())
		}
	}
	return who, nil
}

// offer takes a session that a victim opened, if one is waited for.
func (l *liar) offer(ctx context.Context, _ spiffeid.ID, s *link.Stream) {
	defer s.Reset()
	select {
	case l.offered <- s:
		<-ctx.Done()
	case <-ctx.Done():
	}
}

// session opens a session with a victim, or takes the one that it opens: of two the
// victim keeps that of the smaller ID.
func (l *liar) session(ctx context.Context, conn *link.Conn) (*link.Stream, error) {
	if conn.Peer().String() < l.node.ID.String() {
		select {
		case s := <-l.offered:
			return s, nil
		case <-time.After(offerBy):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return conn.OpenStream(ctx, gossipProtocol)
}

func (l *liar) meet(ctx context.Context, victim Node) error {
	conn, err := l.link.Dial(ctx, victim.Mesh, victim.ID)
	if err != nil {
		return err
	}
	s, err := l.session(ctx, conn)
	if err != nil {
		return err
	}
	go io.Copy(io.Discard, s) // whoever does not take what it is told is dropped
	if _, err := s.Write(frame(frameCert, l.cert.Cert)); err != nil {
		return err
	}
	story, err := l.record("what " + victim.Name + " shall believe: " + rand.Text())
	if err != nil {
		return err
	}
	l.conns, l.streams, l.stories = append(l.conns, conn), append(l.streams, s), append(l.stories, story)
	return nil
}

// lie tells every victim its own story, all at once, and returns when it began.
func (l *liar) lie() (time.Time, error) {
	errs := make([]error, len(l.streams))
	began := time.Now()
	var wait sync.WaitGroup
	for i, s := range l.streams {
		wait.Go(func() { _, errs[i] = s.Write(frame(frameRecord, l.stories[i])) })
	}
	wait.Wait()
	return began, errors.Join(errs...)
}

// cutOff waits until every victim has ended its link, and returns how it said so.
func (l *liar) cutOff(ctx context.Context) (reason error, err error) {
	for _, conn := range l.conns {
		select {
		case <-conn.Done():
			reason = conn.Err()
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s keeps its link", ErrNotContained, conn.Peer())
		}
	}
	return reason, nil
}

func (l *liar) close() error { return errors.Join(l.link.Close(), l.loot.close()) }

// record signs what the node says next. It can be asked for any number of those.
func (l *liar) record(story string) ([]byte, error) {
	ops := []feed.Op{{
		Key: feed.KeyOf(l.node.ID, "x-story", "latest"), Action: feed.Put, Scope: feed.ScopeRegion, Value: []byte(story),
	}}
	body, err := statement.Marshal(ops)
	if err != nil {
		return nil, err
	}
	header, err := statement.Marshal(feed.Header{
		Kind: feed.Ops, Origin: l.node.ID.String(), Epoch: l.cert.Epoch, Seq: l.head.Seq + 1, Prev: l.head.ID,
		HLC: max(feed.NewHLC(time.Now()), l.head.HLC+1), Root: feed.OpsRoot(ops), Count: uint16(len(ops)), Size: uint32(len(body)),
		Base: l.head.Base,
	})
	if err != nil {
		return nil, err
	}
	signed, err := statement.Sign(l.feed, statement.Type{Name: "record", Version: 1}, l.node.ID.TrustDomain().Name(), header)
	if err != nil {
		return nil, err
	}
	return statement.Marshal(struct {
		Statement []byte `cbor:"1,keyasint"`
		Body      []byte `cbor:"2,keyasint"`
	}{signed, body})
}

// frame is one of gossip/replica's.
func frame(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(b, kind), body...)
}
