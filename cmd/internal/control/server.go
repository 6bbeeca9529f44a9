// Package control serves the local API: Connect, gRPC and JSON over HTTP on one
// unix socket. The bailiwick command uses nothing else.
//
// Who may call is decided by the file system: the socket is mode 0600, so only
// its owner and root can. It never listens on a network. With curl:
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
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// MaxRequest is the largest request body, in bytes.
const MaxRequest = 1 << 20

// ErrSocketBusy means another process answers on the socket.
var ErrSocketBusy = errors.New("the control socket is in use: is the node running already?")

// Server is a bound socket.
type Server struct {
	lis  net.Listener
	http *http.Server
}

// Listen binds the socket at path, making its folder. Errors wrap ErrSocketBusy
// or the file system's.
func Listen(path string, handler controlv1.ControlHandler) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := clearStale(path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	lis, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	mux := http.NewServeMux()
	mux.Handle(controlv1.NewControlHandler(handler, connect.WithReadMaxBytes(MaxRequest)))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &Server{lis: lis, http: &http.Server{Handler: mux, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}}, nil
}

// clearStale removes a socket nobody answers on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("the path exists and is no socket: move it away")
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return errors.Join(ErrSocketBusy, c.Close())
	}
	return os.Remove(path)
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
