package workloadapi

import (
	"context"
	"errors"
	"net"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
)

// Caller is the local process at the other end of a connection.
type Caller struct {
	PID       int      // for logs
	Selectors []string // for logs: there may be more, which cost to find out
	// Shows says whether all of an entry's selectors are the process's. Nil: Match
	// compares them with Selectors.
	Shows func(entry []string) bool
	// Recheck says whether it is still the process that was attributed, with the
	// errors of caller.Process.Recheck. Nil says no.
	Recheck func() error
	// Close lets go of the process. It may be nil.
	Close func() error
}

// attribute is the default of Config.Attribute.
func attribute(c *net.UnixConn) (Caller, error) {
	p, err := caller.FromUnix(c)
	if err != nil {
		return Caller{}, err
	}
	return Caller{PID: p.PID, Selectors: p.Selectors, Shows: p.Shows, Recheck: p.Recheck, Close: p.Close}, nil
}

func (c Caller) shows(entry []string) bool {
	if c.Shows != nil {
		return c.Shows(entry)
	}
	return Match(entry, c.Selectors)
}

// Match says whether a process with the selectors of a caller may have the
// identity of an entry: all of the entry's selectors are among them. An entry
// without selectors matches nobody.
func Match(entry, caller []string) bool {
	if len(entry) == 0 {
		return false
	}
	for _, s := range entry {
		if !slices.Contains(caller, s) {
			return false
		}
	}
	return true
}

// attested is the outcome of attribution. It travels as the connection's
// AuthInfo, failures too, so that a call can be answered with the reason.
type attested struct {
	credentials.CommonAuthInfo
	caller Caller
	err    error
}

// AuthType names the mechanism.
func (attested) AuthType() string { return "attested-caller" }

// attestation is the transport security of the socket: none but the kernel's
// word on who connected.
type attestation struct {
	attribute func(*net.UnixConn) (Caller, error)
}

func (a attestation) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := attested{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	uc, ok := raw.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a unix socket")
	}
	info.caller, info.err = a.attribute(uc)
	return attestedConn{Conn: raw, close: info.caller.Close}, info, nil
}

func (attestation) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

func (attestation) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}
func (a attestation) Clone() credentials.TransportCredentials { return a }
func (attestation) OverrideServerName(string) error           { return nil }

// attestedConn lets go of the process together with its connection.
type attestedConn struct {
	net.Conn
	close func() error
}

func (c attestedConn) Close() error {
	if c.close == nil {
		return c.Conn.Close()
	}
	return errors.Join(c.Conn.Close(), c.close())
}

// callerOf returns the attributed process of a call, or the status to end it
// with.
func callerOf(ctx context.Context) (Caller, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return Caller{}, status.Error(codes.Internal, "call without a connection")
	}
	info, ok := p.AuthInfo.(attested)
	switch {
	case !ok:
		return Caller{}, status.Error(codes.Internal, "call without an attributed caller")
	case info.err != nil:
		return Caller{}, status.Errorf(codes.Unavailable, "calling process cannot be attributed: %v", info.err)
	}
	return info.caller, nil
}

// recheck looks at the process again, or returns the status to end its call
// with.
func (c Caller) recheck() error {
	if c.Recheck == nil {
		return status.Error(codes.PermissionDenied, "calling process cannot be looked at again")
	}
	switch err := c.Recheck(); {
	case err == nil:
		return nil
	case errors.Is(err, caller.ErrGone), errors.Is(err, caller.ErrChanged):
		return status.Errorf(codes.PermissionDenied, "%v", err)
	default:
		return status.Errorf(codes.Unavailable, "calling process cannot be looked at again: %v", err)
	}
}
