package attack

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Frames of a gossip session, see package replica.
const (
	frameCert   = 1
	frameRoot   = 2
	frameHeads  = 3
	frameWant   = 4
	frameRecord = 5
	frameSeal   = 6
	frameHeader = 7
	frameLeaves = 9
)

// perLink is how many goroutines both ends of a hostile link may have.
const perLink = 30

// hostile is a client with real keys that sends what it likes.
type hostile struct {
	t    *testing.T
	f    *fleet
	id   spiffeid.ID
	svid *x509svid.SVID
	self replica.Identity
	tr   *quic.Transport

	mu   sync.Mutex
	last feed.Record // that say signed
}

// turncoat is an enrolled member of the fleet's region.
func (f *fleet) turncoat(name string) *hostile {
	f.t.Helper()
	h := f.client(f.home, name)
	f.enrol(h.id, h.self.Cert)
	return h
}

// client has keys that a region gave it, and is nobody's member.
func (f *fleet) client(r *region, name string) *hostile {
	f.t.Helper()
	id := r.node(name)
	h := &hostile{
		t: f.t, f: f, id: id, svid: r.svid(f.t, id, 12*time.Hour), self: r.identity(f.t, id, newKey(f.t), 1, 7*24*time.Hour),
		tr: &quic.Transport{Conn: f.net(f.t), ConnectionIDLength: 8},
	}
	f.t.Cleanup(func() {
		if err := errors.Join(h.tr.Close(), h.tr.Conn.Close()); err != nil {
			h.t.Error(err)
		}
	})
	return h
}

// call makes a QUIC connection to a node and says nothing on it.
func (h *hostile) call(to netip.AddrPort, alter func(*tls.Config, *quic.Config)) (*quic.Conn, error) {
	anyone := x509bundle.NewSet(h.f.home.bundle(), h.f.abroad.bundle())
	conf := identity.ClientTLS(h.svid, anyone, func(spiffeid.ID, [][]*x509.Certificate) error { return nil })
	conf.NextProtos = []string{link.ProtoNode}
	qc := &quic.Config{EnableDatagrams: true, KeepAlivePeriod: 3 * time.Second, MaxIncomingStreams: 1024, MaxIncomingUniStreams: 8}
	if alter != nil {
		alter(conf, qc)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	return h.tr.Dial(ctx, net.UDPAddrFromAddrPort(to), conf, qc)
}

// wire is a link that a node took.
type wire struct {
	*quic.Conn
	h  *hostile
	to *node
}

// try makes a link to a node; the error is why it was not taken.
func (h *hostile) try(n *node, alter func(*tls.Config, *quic.Config)) (*wire, error) {
	conn, err := h.call(n.addr(), alter)
	if err != nil {
		return nil, err
	}
	hello, err := conn.OpenUniStream()
	if err != nil {
		return nil, err
	}
	if _, err := hello.Write(append([]byte{1}, make([]byte, 16)...)); err != nil {
		return nil, err
	}
	_ = hello.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	consent, err := conn.AcceptUniStream(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(consent, make([]byte, 17)); err != nil {
		return nil, err
	}
	h.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	h.f.goroutines += perLink
	go func() { // what honest nodes open is taken, and never answered
		for {
			s, err := conn.AcceptStream(conn.Context())
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, s) }()
		}
	}()
	return &wire{conn, h, n}, nil
}

// link is try, and must succeed.
func (h *hostile) link(n *node) *wire {
	h.t.Helper()
	w, err := h.try(n, nil)
	if err != nil {
		h.t.Fatalf("%s links to %s: %v", h.id, n.id, err)
	}
	return w
}

// stream opens a stream of a protocol.
func (w *wire) stream(proto string) *quic.Stream {
	w.h.t.Helper()
	ctx, cancel := context.WithTimeout(w.h.t.Context(), 10*time.Second)
	defer cancel()
	s, err := w.OpenStreamSync(ctx)
	if err == nil {
		_, err = s.Write(append([]byte{byte(len(proto))}, proto...))
	}
	if err != nil {
		w.h.t.Fatal(err)
	}
	return s
}

// swim sends one datagram of serf's.
func (w *wire) swim(b []byte) {
	_ = w.SendDatagram(append([]byte{datagramSerf}, b...)) // lost ones are no matter
}

// session is a gossip session of which one side is hostile.
type session struct {
	*quic.Stream
	h  *hostile
	to *node
}

// speak begins a session on a link and says who it is. Whatever comes is given to
// hear, or thrown away.
func (w *wire) speak(hear func(t byte, body []byte)) *session {
	w.h.t.Helper()
	s := &session{w.stream(protoGossip), w.h, w.to}
	go s.listen(hear)
	s.send(frameCert, w.h.self.Cert)
	return s
}

// listen gives the frames that come to hear, until the stream ends.
func (s *session) listen(hear func(t byte, body []byte)) { listen(s, hear) }

func listen(from io.Reader, hear func(t byte, body []byte)) {
	in := bufio.NewReader(from)
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		if hear != nil {
			hear(head[4], body)
		}
	}
}

// attach is a new link with a session on it.
func (h *hostile) attach(n *node) *session {
	h.t.Helper()
	return h.link(n).speak(nil)
}

func frame(t byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 5+len(body)), uint32(1+len(body)))
	return append(append(out, t), body...)
}

// send sends a frame; the node may have hung up.
func (s *session) send(t byte, body []byte) { _, _ = s.Write(frame(t, body)) }

func (s *session) record(recs ...feed.Record) {
	for _, rec := range recs {
		s.send(frameRecord, rec.Bytes())
	}
}

// blamed waits until the node holds the relay for this session.
func (s *session) blamed() {
	s.h.t.Helper()
	eventually(s.h.t, 5*time.Second, s.to.id.String()+" holds the relay", func() bool { return s.to.stands(s.h.id).Contained() })
	ends := s.to.sessionEnds(s.h.id)
	if len(ends) == 0 || !errors.Is(ends[len(ends)-1], replica.ErrRelay) {
		s.h.t.Errorf("the session ended with %v", ends)
	}
}

func now() feed.HLC { return feed.NewHLC(time.Now()) }

// sign makes a record of the hostile's own feed by whatever header it likes.
func (h *hostile) sign(head feed.Header, ops ...feed.Op) feed.Record {
	h.t.Helper()
	return signAs(h.t, h.self, h.id, h.epoch(), head, ops...)
}

func (h *hostile) epoch() uint64 {
	key, err := h.f.keys(h.self.Cert)
	if err != nil {
		h.t.Fatal(err)
	}
	return key.Epoch
}

// signAs makes a record of any origin with any key.
func signAs(t *testing.T, by replica.Identity, origin spiffeid.ID, epoch uint64, head feed.Header, ops ...feed.Op) feed.Record {
	t.Helper()
	rec, err := feed.Parse(encodeRecord(t, by, origin, epoch, head, ops...))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// encodeRecord is signAs for what may be no record.
func encodeRecord(t *testing.T, by replica.Identity, origin spiffeid.ID, epoch uint64, head feed.Header, ops ...feed.Op) []byte {
	t.Helper()
	if head.Kind == 0 {
		head.Kind = feed.Ops
	}
	if ops == nil {
		ops = []feed.Op{}
	}
	head.Origin, head.Epoch = origin.String(), epoch
	body := encode(t, ops)
	head.Count, head.Size, head.Root = uint16(len(ops)), uint32(len(body)), feed.OpsRoot(ops)
	st, err := statement.Sign(by.Signer, statement.Type{Name: "record", Version: 1}, origin.TrustDomain().Name(), encode(t, head))
	if err != nil {
		t.Fatal(err)
	}
	return encode(t, wireRecord{st, body})
}

type wireRecord struct {
	Statement []byte `cbor:"1,keyasint"`
	Body      []byte `cbor:"2,keyasint"`
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := statement.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// say signs the next record of the hostile's feed, as an honest node would.
func (h *hostile) say(ops ...feed.Op) feed.Record {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	hlc := now()
	head := feed.Header{Seq: 1, HLC: hlc}
	if h.last.Seq > 0 {
		head = feed.Header{Seq: h.last.Seq + 1, Prev: h.last.ID(), HLC: max(hlc, h.last.HLC+1)}
	}
	h.last = h.sign(head, ops...)
	return h.last
}

func (h *hostile) key(name string) string { return feed.KeyOf(h.id, feed.KindService, name) }

// convicted waits until every honest node has convicted the hostile of a class.
func (h *hostile) convicted(class string) {
	h.t.Helper()
	h.f.all(5*time.Second, h.id.String()+" is convicted of "+class, func(n *node) bool {
		c, ok := n.standing.Case(h.id, time.Now())
		return ok && n.stands(h.id).Contained() && slices.ContainsFunc(c.Evidence, func(e quarantine.Evidence) bool { return e.Class == class })
	})
}

// innocent asks whether nobody holds or accuses the hostile: it did nothing that
// proves anything.
func (h *hostile) innocent() {
	h.t.Helper()
	for _, n := range h.f.nodes {
		if st := n.standing.Standing(h.id, time.Now()); st.Standing.Contained() || st.Findings > 0 {
			h.t.Errorf("%s makes of %s: %+v; sessions ended: %v", n.id, h.id, st, n.sessionEnds(h.id))
		}
	}
}

// headClaim and wantRange are entries of the frames heads and want.
type headClaim struct {
	Origin string  `cbor:"1,keyasint"`
	Epoch  uint64  `cbor:"2,keyasint"`
	Seq    uint64  `cbor:"3,keyasint"`
	ID     feed.ID `cbor:"4,keyasint"`
	Bytes  uint64  `cbor:"5,keyasint"`
}

type wantRange struct {
	Origin string `cbor:"1,keyasint"`
	Epoch  uint64 `cbor:"2,keyasint"`
	From   uint64 `cbor:"3,keyasint"`
	To     uint64 `cbor:"4,keyasint"`
}

// claim tells heads.
func (s *session) claim(heads ...headClaim) { s.send(frameHeads, encode(s.h.t, heads)) }
