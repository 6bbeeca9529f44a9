package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// systemState is the state folder of this machine's own node.
const systemState = "/var/lib/bailiwick"

// recorded is where decisions are to be read from: what was named, or the node that --node or
// --socket chooses, or this machine's. A node that runs is asked to write what it has first; where
// none answers, what it wrote before is read.
func (o *options) recorded(ctx context.Context, from string) (string, error) {
	if from != "" {
		if _, err := os.Stat(from); err != nil {
			return "", fmt.Errorf("%w: %w", decision.ErrNothing, err)
		}
		return from, nil
	}
	dir := systemState
	fleet, err := dev.Find(".")
	switch {
	case err == nil && o.socket == "":
		name := o.node
		if name == "" {
			name = fleet.Nodes[0].Name
		}
		n, err := fleet.Node(name)
		if err != nil {
			return "", err
		}
		dir = n.StateDir()
	case err != nil && (o.node != "" || !errors.Is(err, dev.ErrNoFleet)):
		return "", err
	}
	t, err := o.one()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := t.SealDecisions(ctx, &controlv1.SealDecisionsRequest{})
	switch {
	case err == nil:
		return r.Dir, nil
	case o.socket != "" || !isDir(filepath.Join(dir, decision.DirName)):
		return "", t.reached(err)
	}
	return dir, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}
