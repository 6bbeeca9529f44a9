package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// lean is a connection to a server, for one call after another. It speaks just enough
// HTTP/2 (RFC 9113) and gRPC by hand: a client of gRPC's costs a third of the processor
// time of the servers that are measured, on whose machine it runs. It is for one
// goroutine.
type lean struct {
	conn   net.Conn
	in     *bufio.Reader
	out    []byte // frames for the next write
	stream uint32 // of the call
	ended  bool   // its answer
	window int    // bytes that may be sent before the server says more
	answer []byte // read and not taken yet

	head    *hpack.Decoder    // of the connection: header blocks refer to earlier ones
	trailer map[string]string // of the call: what gRPC says of its end
}

// connect opens a connection that ends with ctx's deadline.
func (m *machine) connect(ctx context.Context) (*lean, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: m.from}}
	raw, err := dialer.DialContext(ctx, "tcp", m.s.addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, m.leanTLS())
	if err = conn.HandshakeContext(ctx); err == nil {
		if deadline, ok := ctx.Deadline(); ok {
			err = conn.SetDeadline(deadline)
		}
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return newLean(conn), nil
}

// newLean speaks on a connection that was just opened.
func newLean(conn net.Conn) *lean {
	c := &lean{conn: conn, in: bufio.NewReaderSize(conn, 8<<10), window: initialWindow, stream: 1, trailer: map[string]string{}}
	c.head = hpack.NewDecoder(4096, func(f hpack.HeaderField) { // octets of RFC 9113's initial SETTINGS_HEADER_TABLE_SIZE
		if f.Name == "grpc-status" || f.Name == "grpc-message" {
			c.trailer[f.Name] = f.Value
		}
	})
	c.out = append(c.out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	// The server need not wait for us to say how much we have read: as much as there may be.
	c.out = appendFrame(c.out, frameSettings, 0, 0, []byte{0, 4, 0x7f, 0xff, 0xff, 0xff}) // SETTINGS_INITIAL_WINDOW_SIZE
	c.out = appendFrame(c.out, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, 1<<31-1-initialWindow))
	return c
}

func (c *lean) close() { _ = c.conn.Close() } // nothing of what it has to say is wanted

// leanTLS shows the SVID if there is one. A server's certificate is verified when it is
// shown for the first time, and known from then on: the client is no part of what is
// measured.
func (m *machine) leanTLS() *tls.Config {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // the web PKI check only: VerifyConnection is the real one
		VerifyConnection: func(cs tls.ConnectionState) error {
			shown := cs.PeerCertificates[0]
			if known := m.s.known.Load(); known != nil && bytes.Equal(known.Raw, shown.Raw) {
				return nil
			}
			id, _, err := x509svid.Verify(cs.PeerCertificates, m.s.bundle)
			if err != nil {
				return err
			}
			if want := spiffeid.RequireFromPath(region, "/spire/server"); id != want {
				return fmt.Errorf("%s answers, want %s", id, want)
			}
			m.s.known.Store(shown)
			return nil
		},
	}
	if m.svid != nil {
		chain := make([][]byte, len(m.svid.Certificates))
		for i, c := range m.svid.Certificates {
			chain[i] = c.Raw
		}
		conf.Certificates = []tls.Certificate{{Certificate: chain, PrivateKey: m.svid.PrivateKey, Leaf: m.svid.Certificates[0]}}
	}
	return conf
}

// call opens a connection, makes one call, and closes it.
func (m *machine) call(ctx context.Context, method string, request, response proto.Message) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return c.call(method, request, response)
}

// call makes one gRPC call of one message each way. An answer without a message is an
// error.
func (c *lean) call(method string, request, response proto.Message) error {
	body, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	c.begin(method)
	if err := c.send(body, true); err != nil {
		return err
	}
	answer, err := c.receive()
	if err != nil {
		return err
	}
	return proto.Unmarshal(answer, response)
}

// begin begins a call, with the next message.
func (c *lean) begin(method string) {
	c.stream += 2
	c.ended, c.answer = false, c.answer[:0]
	clear(c.trailer)
	c.out = appendFrame(c.out, frameHeaders, flagEndHeaders, c.stream, headersOf(method))
}

// send writes a message of the call.
func (c *lean) send(body []byte, last bool) error {
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))) // gRPC: not compressed, length
	message = append(message, body...)
	if c.window -= len(message); c.window < 0 {
		return fmt.Errorf("a message of %d bytes is more than the server takes at once", len(message))
	}
	for len(message) > 0 {
		n, flags := min(len(message), maxFrame), byte(0)
		if last && n == len(message) {
			flags = flagEndStream
		}
		c.out = appendFrame(c.out, frameData, flags, c.stream, message[:n])
		message = message[n:]
	}
	return c.flush()
}

func (c *lean) flush() error {
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// receive returns the next message of the call, which is valid until the next one.
func (c *lean) receive() ([]byte, error) {
	for {
		if len(c.answer) >= 5 {
			if end := 5 + int(binary.BigEndian.Uint32(c.answer[1:5])); len(c.answer) >= end {
				message := c.answer[5:end]
				c.answer = c.answer[end:]
				return message, nil
			}
		}
		if c.ended {
			return nil, c.refused()
		}
		if err := c.frame(); err != nil {
			return nil, err
		}
	}
}

// finish ends a call of several messages.
func (c *lean) finish() error {
	c.out = appendFrame(c.out, frameData, flagEndStream, c.stream, nil)
	if err := c.flush(); err != nil {
		return err
	}
	for !c.ended {
		if err := c.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame reads one. What is to be said to it goes with the next write.
func (c *lean) frame() error {
	head, err := c.in.Peek(frameHead)
	if err != nil {
		return err
	}
	size, kind, flags := int(head[0])<<16|int(head[1])<<8|int(head[2]), head[3], head[4]
	stream := binary.BigEndian.Uint32(head[5:])
	if _, err := c.in.Discard(frameHead); err != nil {
		return err
	}
	if kind == frameData && stream == c.stream {
		have := len(c.answer)
		c.answer = append(c.answer, make([]byte, size)...)
		if _, err := io.ReadFull(c.in, c.answer[have:]); err != nil {
			return err
		}
	} else {
		if size > maxFrame {
			return fmt.Errorf("a frame of kind %d with %d bytes", kind, size)
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(c.in, payload); err != nil {
			return err
		}
		switch {
		case kind == frameHeaders:
			if flags != flags&(flagEndStream|flagEndHeaders) || flags&flagEndHeaders == 0 {
				return fmt.Errorf("a header block in several frames, padded or with a priority: flags %#x", flags)
			}
			if _, err := c.head.Write(payload); err != nil {
				return err
			}
			if err := c.head.Close(); err != nil {
				return err
			}
		case kind == frameSettings && flags&flagAck == 0:
			c.out = appendFrame(c.out, frameSettings, flagAck, 0, nil)
		case kind == framePing && flags&flagAck == 0:
			c.out = appendFrame(c.out, framePing, flagAck, 0, payload)
		case kind == frameWindow && stream == 0 && size == 4:
			c.window += int(binary.BigEndian.Uint32(payload))
		case kind == frameReset && stream == c.stream && size == 4:
			return fmt.Errorf("%w: stream reset, code %d", errNoAnswer, binary.BigEndian.Uint32(payload))
		case kind == frameGoAway && size >= 8:
			return fmt.Errorf("%w: connection given up, code %d, %q", errNoAnswer, binary.BigEndian.Uint32(payload[4:]), payload[8:])
		}
	}
	if (kind == frameData || kind == frameHeaders) && stream == c.stream && flags&flagEndStream != 0 {
		c.ended = true
	}
	return nil
}

// refused is what a call ended with that has no answer: its gRPC status, if it has one.
func (c *lean) refused() error {
	number, err := strconv.ParseUint(c.trailer["grpc-status"], 10, 32)
	if err != nil || number == 0 {
		return fmt.Errorf("%w, with gRPC status %q", errNoAnswer, c.trailer["grpc-status"])
	}
	message, err := url.PathUnescape(c.trailer["grpc-message"])
	if err != nil {
		message = c.trailer["grpc-message"] // as it came
	}
	return fmt.Errorf("%w: %s: %s", errNoAnswer, codes.Code(number), message)
}

var errNoAnswer = errors.New("the call ended without an answer")

const (
	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	framePing     = 6
	frameGoAway   = 7
	frameWindow   = 8

	flagAck, flagEndStream = 1, 1
	flagEndHeaders         = 4

	frameHead     = 9        // bytes
	maxFrame      = 16 << 10 // bytes of a frame's payload
	initialWindow = 1<<16 - 1
)

func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// headersOf is the header block of a call, HPACK (RFC 7541) without compression.
func headersOf(method string) []byte {
	b := []byte{0x83, 0x87} // :method POST, :scheme https
	literal := func(name []byte, value string) {
		b = append(append(append(b, name...), byte(len(value))), value...)
	}
	literal([]byte{0x04}, method)                   // :path
	literal([]byte{0x01}, "spire-server")           // :authority
	literal([]byte{0x0f, 0x10}, "application/grpc") // content-type
	literal([]byte("\x00\x02te"), "trailers")
	return b
}
