// Package control serves the local API: Connect, gRPC and JSON over HTTP on one
// unix socket. The bailiwick command uses nothing else. Beside what operators ask
// (bailiwick.control.v1) is the signed state for any program (bailiwick.state.v1,
// with a Go client in gossip/client).
//
// Who may call is decided twice. The file system lets only the socket's owner and
// root connect (mode 0600), or also a group that the operator names (mode 0660).
// Then every single call is put to the one who serves (Decide), with the caller's
// user as the kernel says it. Nothing is answered that was not decided. It never
// listens on a network. With curl:
//
//	curl --unix-socket run/control.sock -H 'Content-Type: application/json' \
//	  -d '{}' http://bailiwick/bailiwick.control.v1.Control/Status
//
// A socket left by a killed node is replaced; one that still answers is not.
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

// MaxRequest is the largest request body of an operator, in bytes: a file of trust
// records, or all registration entries of a large region.
const MaxRequest = 20 << 20

// maxStateRequest is that of programs that write state: many times the largest value.
const maxStateRequest = 1 << 20

// Server is a bound socket.
type Server struct {
	lis  net.Listener
	http *http.Server
}

// Listen binds the socket at path, making its folder. Group is a name or number, whose
// members may connect too; empty: nobody but the owner and root. The folders above a
// socket for a group are for the operator to open to it. Errors are those of
// local.Unix.
func Listen(path, group string, decide Decide, handler controlv1.ControlHandler, state statev1.StateHandler) (*Server, error) {
	lis, err := local.Unix(path, group)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	asked := connect.WithInterceptors(gatekeeper{decide})
	mux := http.NewServeMux()
	mux.Handle(controlv1.NewControlHandler(handler, connect.WithReadMaxBytes(MaxRequest), asked))
	mux.Handle(statev1.NewStateHandler(state, connect.WithReadMaxBytes(maxStateRequest), asked))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &Server{lis: lis, http: &http.Server{
		Handler: mux, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, ConnContext: local.WithCaller,
	}}, nil
}

// Serve answers until Close. It returns nil after Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.lis); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the service, waiting up to a second for calls under way.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}
