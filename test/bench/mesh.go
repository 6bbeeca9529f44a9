package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

var meshBenches = []bench{
	{
		area: "mesh", name: "stream-open", unit: "µs/request",
		reference: "crypto/tls over TCP with the same SVIDs and checks, a connection for each request",
		note:      "open, send 1 KiB, read it back, close; one after another on loopback; limit is one TLS connection kept open",
		prepare:   func(_ string, s size) (sides, error) { return streamOpen(s.pick(150, 3)) },
	},
}

const echoProtocol = "bench-echo"

func streamOpen(count int) (_ sides, err error) {
	var stops []func()
	stop := func() {
		for i := range stops {
			stops[len(stops)-1-i]()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	ca, err := issuer.NewCA(region, time.Now())
	if err != nil {
		return sides{}, err
	}
	server, err := newSVID(ca, spiffeid.RequireFromPath(region, "/node/east-n1"))
	if err != nil {
		return sides{}, err
	}
	client, err := newSVID(ca, spiffeid.RequireFromPath(region, "/node/east-n2"))
	if err != nil {
		return sides{}, err
	}
	conn, end, err := linkPair(ca, server, client)
	if err != nil {
		return sides{}, err
	}
	stops = append(stops, end)
	anyone := func(spiffeid.ID, [][]*x509.Certificate) error { return nil }
	lis, err := tls.Listen("tcp", "127.0.0.1:0", identity.ServerTLS(server, ca.Bundle(), anyone))
	if err != nil {
		return sides{}, err
	}
	stops = append(stops, func() { _ = lis.Close() })
	go serveEcho(lis)
	dial := func() (net.Conn, error) {
		return tls.Dial("tcp", lis.Addr().String(), identity.ClientTLS(client, ca.Bundle(), anyone))
	}
	kept, err := dial()
	if err != nil {
		return sides{}, err
	}
	stops = append(stops, func() { _ = kept.Close() })

	each := func(count int, open func() (net.Conn, error), keep bool) func() (float64, error) {
		message, answer := bytes.Repeat([]byte("bailiwick"), 114)[:1024], make([]byte, 1024)
		return func() (float64, error) {
			return micros(count, func() error {
				for range count {
					c, err := open()
					if err != nil {
						return err
					}
					if err := echoOnce(c, message, answer); err != nil {
						return err
					}
					if !keep {
						if err := c.Close(); err != nil {
							return err
						}
					}
				}
				return nil
			})
		}
	}
	return sides{
		ours:      each(10*count, func() (net.Conn, error) { return conn.OpenStream(context.Background(), echoProtocol) }, false),
		reference: each(count, dial, false),
		limit:     each(50*count, func() (net.Conn, error) { return kept, nil }, true),
		stop:      stop,
	}, nil
}

// linkPair connects two nodes, the first of which echoes.
func linkPair(ca *issuer.CA, server, client *x509svid.SVID) (*link.Conn, func(), error) {
	var links []*link.Link
	end := func() {
		for _, l := range links {
			_ = l.Close()
		}
	}
	for _, svid := range []*x509svid.SVID{server, client} {
		l, err := link.Listen(link.Config{
			Listen: "127.0.0.1:0", SVID: svid, Bundles: ca.Bundle(), Authorize: func(spiffeid.ID) error { return nil },
		})
		if err != nil {
			end()
			return nil, nil, err
		}
		links = append(links, l)
		l.Handle(echoProtocol, func(_ context.Context, _ spiffeid.ID, s *link.Stream) {
			defer s.Close()
			_, _ = io.Copy(s, s)
		})
		go func() { _ = l.Run(context.Background()) }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := links[1].Dial(ctx, links[0].Addr(), server.ID)
	if err != nil {
		end()
		return nil, nil, err
	}
	return conn, end, nil
}

func serveEcho(lis net.Listener) {
	for {
		c, err := lis.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func echoOnce(c net.Conn, message, answer []byte) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if !bytes.Equal(message, answer) {
		return errors.New("the echo differs")
	}
	return nil
}
