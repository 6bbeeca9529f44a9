package link

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	helloVersion = 1
	helloSize    = 17
	helloTimeout = 5 * time.Second
)

// admit takes an accepted connection through the rest of its checks. It owns
// the connection until then.
func (l *Link) admit(qc *quic.Conn) {
	h := handshakeOf(qc.Context())
	h.admitting.Store(true)
	defer h.leave()
	kind, name, svid := h.chosen()
	if svid == nil {
		_ = qc.CloseWithError(codeUntrusted, "no identity was shown")
		return
	}
	var err error
	if kind == kindTunnel {
		err = l.admitTunnel(qc, name, svid)
	} else {
		err = l.admitNode(qc, svid)
	}
	if err != nil {
		l.refused(kind, "accept", addrPort(qc.RemoteAddr()), err)
		return
	}
	l.m.handshakes.WithLabelValues(kind, "accept", "ok").Inc()
}

func (l *Link) admitNode(qc *quic.Conn, own *x509svid.SVID) error {
	s, err := newSession(qc, kindNode, own.Certificates, l.cfg.Authorize)
	if err != nil {
		_ = qc.CloseWithError(codeUntrusted, err.Error())
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if err := l.track(s); err != nil {
		return err
	}
	instance, err := readHello(l.ctx, qc)
	if err != nil {
		s.end(codeHello, "no valid hello came in time")
		return fmt.Errorf("hello of %s: %w", s.id, err)
	}
	c := l.newConn(s, s.id, instance)
	if _, err := l.register(c); err != nil {
		return err
	}
	if err := l.sendHello(qc); err != nil {
		s.end(codeHello, "the hello could not be sent")
		return fmt.Errorf("hello to %s: %w", s.id, explain(err))
	}
	return nil
}

func (l *Link) sendHello(qc *quic.Conn) error {
	st, err := qc.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err := st.Write(append([]byte{helloVersion}, l.instance[:]...)); err != nil {
		return err
	}
	_ = st.Close() // fails when the peer has read all it wants and said so
	return nil
}

func readHello(ctx context.Context, qc *quic.Conn) (instance [16]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	st, err := qc.AcceptUniStream(ctx)
	if err != nil {
		return instance, explain(err)
	}
	defer st.CancelRead(resetDone) // what a later version appends
	_ = st.SetReadDeadline(time.Now().Add(helloTimeout))
	var b [helloSize]byte
	if n, err := io.ReadFull(st, b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return instance, fmt.Errorf("%w: its hello has %d bytes, not %d", ErrUnauthorized, n, helloSize)
	} else if err != nil {
		return instance, explain(err)
	}
	if b[0] < helloVersion {
		return instance, fmt.Errorf("%w: its hello is of version %d", ErrUnauthorized, b[0])
	}
	return [16]byte(b[1:]), nil
}
