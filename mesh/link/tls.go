package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// Application protocols (ALPN) of the two kinds of connection.
const (
	ProtoNode   = "bailiwick/1"
	ProtoTunnel = "bailiwick-tunnel/1"
)

const (
	kindNode   = "node"
	kindTunnel = "tunnel"
)

// serverTLS answers every ClientHello with a configuration of its own, so that
// one connection can never be taken for the other kind.
func (l *Link) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		GetConfigForClient:     l.configFor,
	}
}

func (l *Link) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	h := handshakeOf(hello.Context())
	switch {
	case slices.Contains(hello.SupportedProtos, ProtoNode):
		svid, err := l.cfg.SVID.GetX509SVID()
		if err != nil {
			return nil, fmt.Errorf("own SVID: %w", err)
		}
		if err := current(svid.Certificates, time.Now()); err != nil {
			return nil, err
		}
		h.choose(kindNode, "", svid)
		return l.harden(identity.ServerTLS(svid, l.cfg.Bundles, l.nodePeer(svid)), ProtoNode), nil
	case slices.Contains(hello.SupportedProtos, ProtoTunnel):
		svid, err := l.tunnelSVID(hello.ServerName)
		if err != nil {
			return nil, fmt.Errorf("%w%.0w", err, alertUnrecognizedName)
		}
		h.choose(kindTunnel, hello.ServerName, svid)
		return l.harden(identity.ServerTLS(svid, l.cfg.Bundles, workloadPeer), ProtoTunnel), nil
	}
	return nil, fmt.Errorf("peer speaks neither %s nor %s but %q%.0w", ProtoNode, ProtoTunnel, hello.SupportedProtos, alertNoProtocol)
}

// harden fixes the protocol and lets a refused peer know why.
func (l *Link) harden(c *tls.Config, proto string) *tls.Config {
	c.NextProtos = []string{proto}
	verify := c.VerifyConnection
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != proto { // crypto/tls lets an absent ALPN pass outside QUIC
			return fmt.Errorf("negotiated protocol is %q, not %q", cs.NegotiatedProtocol, proto)
		}
		return withAlert(verify(cs))
	}
	return c
}

// nodePeer returns the part of a node handshake's check that TLS can answer:
// that the peer is a node other than this one. Config.Authorize comes after the
// handshake (Link.admit), where the refused peer can be told why.
func (l *Link) nodePeer(own *x509svid.SVID) identity.Authorize {
	return func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		//bailiwick:check TestStranger/a_workload
		if _, err := identity.ParseNode(id); err != nil {
			return err
		}
		//bailiwick:check TestStranger/the_node_itself
		if id == own.ID {
			return errors.New("this is the node itself")
		}
		return nil
	}
}

// workloadPeer refuses identities that name no workload.
func workloadPeer(id spiffeid.ID, _ [][]*x509.Certificate) error {
	if _, err := identity.ParseNode(id); err == nil {
		return errors.New("a node identity is not a workload's")
	}
	if strings.HasPrefix(id.Path(), "/spire/") || id.Path() == "" {
		return errors.New("a reserved identity is not a workload's")
	}
	return nil
}
