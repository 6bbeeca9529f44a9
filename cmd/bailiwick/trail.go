package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
)

func trailCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "trail", Short: "The node's tamper-evident record, read offline"}
	c.AddCommand(trailVerifyCommand(o), trailExportCommand(o), trailAskCommand(o), trailTailCommand(o), trailDiffCommand(o), trailTimelineCommand(o))
	return c
}

// trailSource is where a trail is and whose it must be.
type trailSource struct {
	dir    string
	node   spiffeid.ID
	config string // of the node, for its trust records; empty: unknown
}

func trailOf(o *options, args []string, configPath, id string) (trailSource, error) {
	var src trailSource
	if len(args) == 1 {
		src.dir = args[0]
	}
	if o.node != "" {
		f, err := dev.Find(".")
		if err != nil {
			return src, err
		}
		n, err := f.Node(o.node)
		if err != nil {
			return src, err
		}
		configPath, src.dir = n.Config, filepath.Join(n.StateDir(), "trail")
	}
	if configPath != "" {
		c, err := config.Load(configPath)
		if err != nil {
			return src, err
		}
		src.config, src.node = configPath, c.Node
		if src.dir == "" {
			src.dir = filepath.Join(string(c.State), "trail")
		}
	}
	if id != "" {
		parsed, err := spiffeid.FromString(id)
		if err != nil {
			return src, &usageError{fmt.Errorf("--id: %w", err)}
		}
		src.node = parsed
	}
	if src.dir == "" || src.node.IsZero() {
		return src, &usageError{errors.New("say whose trail: --node NAME, or DIR with --id or --config")}
	}
	return src, nil
}

// trailName is the folder of trails in a state folder.
const trailName = "trail"

// trailDirs are the trails a question is put to: those named, each a state folder or the
// trail in it; else those of the dev fleet, or of its --node; else this machine's.
func (o *options) trailDirs(args []string, configPath string) ([]string, error) {
	var out []string
	for _, dir := range args {
		if isDir(filepath.Join(dir, trailName)) {
			dir = filepath.Join(dir, trailName)
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", trail.ErrNoTrail, dir)
		}
		out = append(out, dir)
	}
	if len(out) > 0 {
		return out, nil
	}
	if configPath != "" {
		c, err := config.Load(configPath)
		if err != nil {
			return nil, err
		}
		return []string{filepath.Join(string(c.State), trailName)}, nil
	}
	fleet, err := dev.Find(".")
	if errors.Is(err, dev.ErrNoFleet) && o.node == "" {
		return []string{filepath.Join(systemState, trailName)}, nil
	}
	if err != nil {
		return nil, err
	}
	nodes := fleet.Nodes
	if o.node != "" {
		n, err := fleet.Node(o.node)
		if err != nil {
			return nil, err
		}
		nodes = []dev.Node{n}
	}
	for _, n := range nodes {
		out = append(out, filepath.Join(n.StateDir(), trailName))
	}
	return out, nil
}
