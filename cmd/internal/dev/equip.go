package dev

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// machineOf is what provisioning knows of one node's TPM.
type machineOf struct {
	soft *maker.SoftTPM
	ek   string // SHA-256 of the endorsement public key, hex
}

// equip starts every TPM and writes whatever the fleet lacks: the TPMs
// themselves, keys, signed trust and policy, entries, and the nodes' files, which
// are written anew because addresses may differ. It may run any number of times.
// The TPMs that run are returned in any case.
func equip(ctx context.Context, f *Fleet) ([]*maker.SoftTPM, error) {
	machines, err := f.machines(ctx)
	var running []*maker.SoftTPM
	for _, m := range machines {
		if m.soft != nil {
			running = append(running, m.soft)
		}
	}
	if err != nil {
		return running, err
	}
	global, err := f.provisionGlobal()
	if err != nil {
		return running, fmt.Errorf("global authority: %w", err)
	}
	for _, r := range f.Regions {
		if err := f.provisionRegion(r, global); err != nil {
			return running, fmt.Errorf("region %s: %w", r.Label, err)
		}
		if err := f.writeEntries(r, machines); err != nil {
			return running, fmt.Errorf("region %s: entries: %w", r.Label, err)
		}
	}
	for i, n := range f.Nodes {
		if err := f.writeNode(n, machines[i].soft); err != nil {
			return running, fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return running, f.save()
}

// machines makes or starts the TPM of every node, all at once, in the order of
// Nodes.
func (f *Fleet) machines(ctx context.Context) ([]machineOf, error) {
	ca, err := maker.OpenCA(filepath.Join(f.Dir, "maker"))
	if err != nil {
		return nil, fmt.Errorf("TPM maker: %w", err)
	}
	out := make([]machineOf, len(f.Nodes))
	var g errgroup.Group // without its context: that would end the TPMs with the group
	for i, n := range f.Nodes {
		g.Go(func() (err error) {
			if out[i].soft, err = ca.Manufacture(ctx, n.TPMDir()); err != nil {
				return fmt.Errorf("TPM of %s: %w", n.Name, err)
			}
			if out[i].ek, err = endorsementKey(out[i].soft, n); err != nil {
				return fmt.Errorf("keys of %s: %w", n.Name, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

// endorsementKey names the machine. The keys are those that the node itself will
// use: opening them here only means that it finds them made.
func endorsementKey(soft *maker.SoftTPM, n Node) (ek string, err error) {
	dir := filepath.Join(n.StateDir(), "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	d, err := tpm.Open(soft.Path())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	keys, err := tpm.OpenKeys(d, dir)
	if err != nil {
		return "", err
	}
	hash := keys.EKHash()
	return hex.EncodeToString(hash[:]), nil
}
