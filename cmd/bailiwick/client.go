package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

const (
	systemSocket = "/var/lib/bailiwick/run/control.sock"
	callTimeout  = 10 * time.Second
)

// target is one node the command talks to.
type target struct {
	name   string
	socket string
	controlv1.ControlClient
	state statev1.StateClient
}

// targets are the nodes to ask: the one given by --socket, the dev fleet of this
// folder (or its --node), or the machine's own.
func (o *options) targets() ([]target, error) {
	if o.socket != "" {
		return []target{dial("the node", o.socket)}, nil
	}
	fleet, err := dev.Find(".")
	if errors.Is(err, dev.ErrNoFleet) && o.node == "" {
		return []target{dial("this machine", systemSocket)}, nil
	}
	if err != nil {
		return nil, err
	}
	var out []target
	for _, n := range fleet.Nodes {
		if o.node == "" || o.node == n.Name {
			out = append(out, dial(n.Name, n.ControlSocket))
		}
	}
	if len(out) == 0 {
		return nil, &usageError{fmt.Errorf("--node %s: the dev fleet has %v", o.node, fleet.Names())}
	}
	return out, nil
}

// one is the single node a verb is about: the first of the fleet unless chosen.
func (o *options) one() (target, error) {
	all, err := o.targets()
	if err != nil {
		return target{}, err
	}
	return all[0], nil
}

func dial(name, socket string) target {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	const base = "http://bailiwick"
	return target{name: name, socket: socket, ControlClient: controlv1.NewControlClient(client, base), state: statev1.NewStateClient(client, base)}
}

// reached gives an error of a call its kind, which has a code and an exit code,
// and says whose it is.
func (t target) reached(err error) error {
	var refused *connect.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &refused):
		return fmt.Errorf("%s: %w", t.name, err)
	case refused.Code() == connect.CodeDeadlineExceeded:
		return fmt.Errorf("%s: %w: %s: nothing within %s", t.name, explain.ErrUnreachable, t.socket, callTimeout)
	case !connect.IsWireError(err):
		return fmt.Errorf("%s: %w: %s: %s", t.name, explain.ErrUnreachable, t.socket, cause(err))
	}
	if e, ok := explain.Find(refused.Meta().Get(client.CodeHeader)); ok {
		return fmt.Errorf("%s: %w", t.name, said{refused.Message(), e.Is})
	}
	if kind := kinds[refused.Code()]; kind != nil {
		return fmt.Errorf("%s: %w: %s", t.name, kind, refused.Message())
	}
	return fmt.Errorf("%s: %s", t.name, refused.Message())
}

// said is an error of the node's: its words, and what they are about.
type said struct {
	words string
	is    error
}

func (s said) Error() string { return s.words }
func (s said) Unwrap() error { return s.is }

var kinds = map[connect.Code]error{
	connect.CodePermissionDenied:   explain.ErrRefused,
	connect.CodeInvalidArgument:    explain.ErrRequest,
	connect.CodeNotFound:           explain.ErrNotThere,
	connect.CodeFailedPrecondition: explain.ErrNotNow,
}

// cause is what the system said, without what surrounds it.
func cause(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}

// answers asks all targets at once and keeps their order. A node that does not
// answer has a nil answer and an error.
func answers[T any](targets []target, ask func(context.Context, target) (*T, error)) ([]*T, []error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	out, errs := make([]*T, len(targets)), make([]error, len(targets))
	done := make(chan struct{})
	for i, t := range targets {
		go func() {
			v, err := ask(ctx, t)
			out[i], errs[i] = v, t.reached(err)
			done <- struct{}{}
		}()
	}
	for range targets {
		<-done
	}
	return out, errs
}

// allFailed is the first error where nobody answered.
func allFailed(errs []error) error {
	if slices.Contains(errs, nil) {
		return nil
	}
	return errs[0]
}
