package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

const askTimeout = 5 * time.Second

// Control returns a client of a node's control socket. It connects when it is
// used.
func Control(n Node) controlv1.ControlClient {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // nobody closes these clients
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", n.ControlSocket)
		},
	}}
	return controlv1.NewControlClient(client, "http://bailiwick")
}

// ask calls nodes all at once and joins their errors, each with its node's name.
func ask(ctx context.Context, nodes []Node, call func(context.Context, Node, controlv1.ControlClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	errs := make([]error, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() {
			err := call(ctx, n, Control(n))
			if connect.CodeOf(err) == connect.CodeUnavailable && !connect.IsWireError(err) {
				err = ErrNotRunning // nobody behind the socket
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// marker is there once a node's state and TPM were taken from it.
func (f *Fleet) marker(name string) string { return filepath.Join(f.RunDir, name+".poisoned") }

func (f *Fleet) poisoned(name string) bool {
	_, err := os.Stat(f.marker(name))
	return err == nil
}

// honest are the nodes nobody has taken over.
func (f *Fleet) honest() []Node {
	return slices.DeleteFunc(slices.Clone(f.Nodes), func(n Node) bool { return f.poisoned(n.Name) })
}
