package control

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
)

// Call is one call, before it is answered.
type Call struct {
	API  string // control or state
	Name string // of the method
	Key  string // the key, prefix or name of signed state that it is about, as the caller spells it
	From *local.Caller
}

// Decide lets a call through or says why not; the context is the handler's. It is asked once for
// each call, of a stream before its first answer and not again while it lasts.
type Decide func(context.Context, Call) (context.Context, error)

// gatekeeper asks decide about every call.
type gatekeeper struct{ decide Decide }

func (g gatekeeper) call(ctx context.Context, procedure string, message any) Call {
	c := Call{API: "control"}
	path, name, _ := strings.Cut(strings.TrimPrefix(procedure, "/"), "/")
	if c.Name = name; strings.Contains(path, ".state.") {
		c.API = "state"
	}
	switch m := message.(type) {
	case interface{ GetKey() string }:
		c.Key = m.GetKey()
	case interface{ GetPrefix() string }:
		c.Key = m.GetPrefix()
	case interface{ GetName() string }:
		c.Key = m.GetName()
	}
	c.From = local.From(ctx)
	return c
}

// ask denies where nobody was given to decide.
func (g gatekeeper) ask(ctx context.Context, procedure string, message any) (context.Context, error) {
	if g.decide == nil {
		return ctx, connect.NewError(connect.CodePermissionDenied, errors.New("nobody decides about calls here"))
	}
	return g.decide(ctx, g.call(ctx, procedure, message))
}

func (g gatekeeper) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := g.ask(ctx, req.Spec().Procedure, req.Any())
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

func (g gatekeeper) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (g gatekeeper) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return next(ctx, &decidedConn{StreamingHandlerConn: conn, gatekeeper: g, ctx: ctx})
	}
}

// decidedConn asks when the request is read, for only then is it known what it is about.
type decidedConn struct {
	connect.StreamingHandlerConn
	gatekeeper
	ctx     context.Context
	decided bool
}

func (c *decidedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil || c.decided {
		return err
	}
	c.decided = true
	_, err := c.ask(c.ctx, c.Spec().Procedure, message)
	return err
}
