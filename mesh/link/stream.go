package link

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// maxName is the longest stream protocol name, in bytes.
const maxName = 32

// Stream is one bidirectional byte stream and a net.Conn. Its owner must call
// Close; a stream that was only half closed holds memory on both sides.
type Stream struct {
	qs            *quic.Stream
	local, remote net.Addr
	writing       sync.Mutex // held during one Write: quic-go forbids closing under a Write
	over          func()     // hears of the first Close or Reset; nil: nobody does
}

var _ net.Conn = (*Stream)(nil)

func newStream(qc *quic.Conn, qs *quic.Stream) *Stream {
	return &Stream{qs: qs, local: qc.LocalAddr(), remote: qc.RemoteAddr()}
}

// Read reads what the peer wrote. It returns io.EOF after the peer's CloseWrite
// or Close, ErrReset when the peer gave up, and ErrClosed, ErrPeerRefused or
// ErrUnreachable when the connection ended.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.qs.Read(b)
	return n, explainStream(err)
}

// Write writes b, blocking while the peer's flow control says so. Errors are
// those of Read, and ErrNoProtocol.
func (s *Stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.qs.Write(b)
	return n, explainStream(err)
}

// CloseWrite ends the sending direction after what was written; the peer reads
// io.EOF. It waits for a Write in progress.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.qs.Close() // fails only when the peer no longer reads: it is closed then
	return nil
}

// CancelRead tells the peer that nothing more will be read.
func (s *Stream) CancelRead() { s.qs.CancelRead(resetDone) }

// Close ends both directions: nothing more is read, and what was written is
// still delivered. A Write in progress is abandoned and the peer then sees
// ErrReset instead of io.EOF.
func (s *Stream) Close() error {
	s.end()
	s.qs.CancelRead(resetDone)
	if !s.writing.TryLock() {
		s.qs.CancelWrite(resetDone)
		return nil
	}
	defer s.writing.Unlock()
	_ = s.qs.Close()
	return nil
}

// Reset ends both directions at once; the peer sees ErrReset.
func (s *Stream) Reset() { s.reset(resetDone) }

func (s *Stream) reset(code quic.StreamErrorCode) {
	s.end()
	s.qs.CancelRead(code)
	s.qs.CancelWrite(code)
}

func (s *Stream) end() {
	if s.over != nil {
		s.over()
	}
}

// Context ends when the sending direction is closed or the connection ends.
func (s *Stream) Context() context.Context { return s.qs.Context() }

// LocalAddr returns the UDP address of this side.
func (s *Stream) LocalAddr() net.Addr { return s.local }

// RemoteAddr returns the UDP address of the peer when the stream was opened.
func (s *Stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline sets both deadlines; see net.Conn.
func (s *Stream) SetDeadline(t time.Time) error { return s.qs.SetDeadline(t) }

// SetReadDeadline makes a Read fail with os.ErrDeadlineExceeded at t.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.qs.SetReadDeadline(t) }

// SetWriteDeadline makes a Write fail with os.ErrDeadlineExceeded at t.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.qs.SetWriteDeadline(t) }

// checkName refuses what may not be a stream protocol name.
func checkName(name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("%w: %d bytes", ErrProtocolName, len(name))
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '/', c == '-':
		default:
			return fmt.Errorf("%w: %q", ErrProtocolName, name)
		}
	}
	return nil
}

// appendHeader appends the header of a stream of protocol name, which must have
// passed checkName.
func appendHeader(b []byte, name string) []byte {
	return append(append(b, byte(len(name))), name...)
}

// readHeader reads a stream header and nothing after it: at most 33 bytes.
func readHeader(r io.Reader) (string, error) {
	var b [1 + maxName]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return "", err
	}
	n := int(b[0])
	if n == 0 || n > maxName {
		return "", fmt.Errorf("%w: %d bytes", ErrProtocolName, n)
	}
	if _, err := io.ReadFull(r, b[1:1+n]); err != nil {
		return "", err
	}
	name := string(b[1 : 1+n])
	return name, checkName(name)
}
