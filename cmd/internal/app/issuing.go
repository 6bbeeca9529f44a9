package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// errNoAuthority is before the region's authority has been heard of, or met.
var errNoAuthority = errors.New("this node has no link to it")

func (a *App) openIssuing() (err error) {
	if a.branch, err = issuing.OpenBranch(a.cfg.Node, a.office, a.toAuthority, a.store, a.log); err != nil {
		return err
	}
	a.issuing, err = issuing.Open(issuing.Config{
		Node: a.cfg, Device: a.machine.RootDevice, Trust: a.trust, Branch: a.branch, Standing: a.standing.issues,
		Appraise: a.appraise, Judge: a.judgeProved, Store: a.store, Log: a.log, Metrics: a.metrics, Notify: notifySystemd,
		Heads: func(node spiffeid.ID) [][]byte { return a.policies.Heads(node, a.rolloutPeers) },
	})
	a.onStop(a.issuing.Close)
	return err
}

// issuer returns what signs here; nil where nothing does, or not yet.
func (a *App) issuer() *issuer.Server {
	if a.issuing == nil {
		return nil
	}
	return a.issuing.Server()
}

// toAuthority opens a stream to the node that is the region's authority.
func (a *App) toAuthority(ctx context.Context) (issuing.Stream, error) {
	master := a.ownBook().Record(a.ownRegion()).Master
	if master.IsZero() {
		return nil, errNoAuthority
	}
	conn, err := a.peering.reach(ctx, master)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errNoAuthority, master, err)
	}
	return conn.OpenStream(ctx, issuing.Proto)
}
