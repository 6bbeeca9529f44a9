package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// Errors of this package. Each is one cause an operator or a caller can act on.
var (
	// ErrPortBusy means another process holds the UDP address.
	ErrPortBusy = errors.New("UDP address is in use: stop the other process or choose another listen address")
	// ErrPeerRefused means the peer answered and said no; the text carries its reason.
	ErrPeerRefused = errors.New("peer refused the connection")
	// ErrWrongPeer means another identity than the wanted one answered.
	ErrWrongPeer = errors.New("another identity answers at this address: check the address in the roster or config")
	// ErrUnauthorized means this side refused the peer.
	ErrUnauthorized = errors.New("peer is not accepted here")
	// ErrOwnExpired means this node's own SVID, or the workload's, has expired.
	ErrOwnExpired = errors.New("own certificate has expired: check that an issuer of the region can be reached, and this machine's clock")
	// ErrUnreachable means nothing answered in time, or the peer stopped answering.
	ErrUnreachable = errors.New("peer does not answer: check the address, the network and that it runs")
	// ErrClosed means this link or connection was closed, for the reason in the text.
	ErrClosed = errors.New("connection closed")
	// ErrReset means the peer gave this stream up. The connection is healthy.
	ErrReset = errors.New("stream reset by the peer")
	// ErrNoProtocol means the peer serves no streams of this protocol name.
	ErrNoProtocol = errors.New("peer does not serve this stream protocol: it may be an older version")
	// ErrProtocolName means a stream protocol name is empty, longer than 32
	// bytes, or has bytes outside [a-z0-9./-].
	ErrProtocolName = errors.New("stream protocol name must be 1 to 32 bytes of a-z, 0-9, dot, slash and dash")
	// ErrTooLarge means a datagram is longer than MaxDatagram: use a stream.
	ErrTooLarge = errors.New("datagram is too large: use a stream")
	// ErrQueueFull means a datagram was dropped because the peer is slower than
	// its sender. Datagrams may be lost anyway; nothing needs to be done.
	ErrQueueFull = errors.New("datagram queue is full")
)

// Codes of CONNECTION_CLOSE frames of type application (RFC 9000 section 19.19).
const (
	codeStopping     quic.ApplicationErrorCode = 0x00 // the process ends
	codeUnauthorized quic.ApplicationErrorCode = 0x10 // verified, not welcome (any more)
	codeExpired      quic.ApplicationErrorCode = 0x11 // a certificate of either side expired
	codeUntrusted    quic.ApplicationErrorCode = 0x12 // the chain does not verify (any more)
	codeSuperseded   quic.ApplicationErrorCode = 0x13 // another connection of the same two nodes is in use
	codeHello        quic.ApplicationErrorCode = 0x14 // no hello, or a malformed one
	codeBusy         quic.ApplicationErrorCode = 0x15 // over a limit of this side
	codeTunnelEnd    quic.ApplicationErrorCode = 0x16 // the owner of the tunnel closed it
	codeIdle         quic.ApplicationErrorCode = 0x17 // nothing used the connection
)

// Codes of RESET_STREAM and STOP_SENDING frames.
const (
	resetDone    quic.StreamErrorCode = 0 // the owner closed the stream
	resetUnknown quic.StreamErrorCode = 1 // no handler for the protocol name
	resetHeader  quic.StreamErrorCode = 2 // malformed or late stream header
)

// TLS alerts (RFC 8446 section 6.2) that tell a refused peer why.
const (
	alertBadCertificate     tls.AlertError = 42
	alertCertificateExpired tls.AlertError = 45
	alertUnknownCA          tls.AlertError = 48
	alertAccessDenied       tls.AlertError = 49
	alertUnrecognizedName   tls.AlertError = 112
	alertCertRequired       tls.AlertError = 116
	alertNoProtocol         tls.AlertError = 120
)

// withAlert makes err travel to the peer as an alert that says as much of it as
// TLS can.
func withAlert(err error) error {
	if err == nil {
		return nil
	}
	alert := alertBadCertificate
	switch {
	case errors.Is(err, identity.ErrExpired):
		alert = alertCertificateExpired
	case errors.Is(err, identity.ErrForeign):
		alert = alertUnknownCA
	case errors.Is(err, identity.ErrRefused):
		alert = alertAccessDenied
	}
	return fmt.Errorf("%w%.0w", err, alert)
}

var alertMeaning = map[tls.AlertError]string{
	alertBadCertificate:     "it does not trust our certificate",
	alertCertificateExpired: "our certificate is outside its validity, by its clock",
	alertUnknownCA:          "it has no trust bundle for our trust domain",
	alertUnrecognizedName:   "it does not serve that name",
	alertCertRequired:       "it wants a certificate and we showed none",
	alertNoProtocol:         "it does not speak this protocol",
}

// errUnwelcome is the answer of a peer that verified who we are, and then said no.
var errUnwelcome = errors.New("our identity is not welcome for this kind of connection")

// Unwelcome reports whether an error says that the peer verified this node's
// identity and does not want it: it may be contained there.
func Unwelcome(err error) bool { return errors.Is(err, errUnwelcome) }

// explain turns whatever ended or prevented a connection into an error of this
// package. quic-go's types stay here.
func explain(err error) error {
	var app *quic.ApplicationError
	var tr *quic.TransportError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &app) && !app.Remote:
		return fmt.Errorf("%w here: %s", ErrClosed, app.ErrorMessage)
	case errors.As(err, &app):
		switch app.ErrorCode {
		case codeUnauthorized:
			return fmt.Errorf("%w: %s%.0w", ErrPeerRefused, printable(app.ErrorMessage), errUnwelcome)
		case codeUntrusted, codeHello, codeBusy:
			return fmt.Errorf("%w: %s", ErrPeerRefused, printable(app.ErrorMessage))
		}
		return fmt.Errorf("%w by the peer: %s", ErrClosed, printable(app.ErrorMessage))
	case errors.As(err, &tr) && tr.Remote && tr.ErrorCode.IsCryptoError():
		alert := tls.AlertError(tr.ErrorCode - 0x100)
		if alert == alertAccessDenied {
			return fmt.Errorf("%w: %w", ErrPeerRefused, errUnwelcome)
		}
		if why, ok := alertMeaning[alert]; ok {
			return fmt.Errorf("%w: %s", ErrPeerRefused, why)
		}
		return fmt.Errorf("%w: %w", ErrPeerRefused, alert)
	case errors.As(err, &tr) && tr.Remote && tr.ErrorCode == quic.ConnectionRefused:
		return fmt.Errorf("%w: it is stopping or has too many handshakes in flight", ErrPeerRefused)
	case errors.As(err, &tr) && tr.ErrorCode.IsCryptoError() && errors.Is(err, ErrWrongPeer):
		return inner(tr)
	case errors.As(err, &tr) && tr.ErrorCode.IsCryptoError():
		return fmt.Errorf("%w: %w", ErrUnauthorized, inner(tr))
	case errors.Is(err, quic.ErrTransportClosed), errors.Is(err, quic.ErrServerClosed):
		return fmt.Errorf("%w: the link is closed", ErrClosed)
	case errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%w (%s)", ErrUnreachable, err)
}

// inner gives the cause inside a local TLS failure without quic-go's wording.
func inner(tr *quic.TransportError) error {
	for _, e := range tr.Unwrap() {
		if e != nil && e != net.ErrClosed {
			return e
		}
	}
	return tr
}

// explainStream is explain for errors of stream operations.
func explainStream(err error) error {
	var reset *quic.StreamError
	switch {
	case err == nil, err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.As(err, &reset) && reset.Remote && reset.ErrorCode == resetUnknown:
		return ErrNoProtocol
	case errors.As(err, &reset) && reset.Remote:
		return ErrReset
	case errors.As(err, &reset), errors.Is(err, quic.ErrStreamClosed):
		return fmt.Errorf("%w: this stream was closed here", ErrClosed)
	}
	return explain(err)
}

// at adds the address to an error of a dial.
func at(addr netip.AddrPort, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", addr, err)
}

// maxReason bounds the text of a close, ours and theirs, in bytes.
const maxReason = 256

// printable makes a peer's text safe for logs and terminals.
func printable(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	b := []byte(s)
	for i, c := range b {
		if c < 0x20 || c > 0x7e {
			b[i] = '?'
		}
	}
	return string(b)
}
