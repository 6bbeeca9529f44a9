package issuer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// ListenLocal makes the socket for ServeLocal: only the process's own user may
// connect. It replaces a socket that nobody listens on. Errors are the system's.
func ListenLocal(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s: %w and is no socket", path, fs.ErrExist)
	default:
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("%s: another process serves it: %w", path, syscall.EADDRINUSE), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ServeLocal answers the operator on l, a socket of ListenLocal, which it closes,
// until ctx ends. Who can connect may do everything: there is no other check.
func (s *Server) ServeLocal(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	agentv1.RegisterAgentServer(g, localAgentAPI{Server: s})
	bundlev1.RegisterBundleServer(g, localBundleAPI{Server: s})
	entryv1.RegisterEntryServer(g, localEntryAPI{Server: s})
	localauthorityv1.RegisterLocalAuthorityServer(g, localAuthorityAPI{Server: s})
	grpc_health_v1.RegisterHealthServer(g, health.NewServer()) // SERVING as long as it answers
	return serve(ctx, g, l)
}
