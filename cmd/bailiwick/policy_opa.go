package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/opabundle"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// writeOPA writes the policy in a folder as an OPA bundle. What it says of itself is as far as
// is known without asking a node.
func (p *publication) writeOPA(dir string) error {
	if p.key == "" {
		return &usageError{errors.New("--key FILE is required: what signs the bundle")}
	}
	key, err := keyfile.OpenExisting(p.key)
	if err != nil {
		return err
	}
	about, err := p.aboutOPA(dir, key)
	if err != nil {
		return err
	}
	packed, err := compiled(dir, about.Level)
	if err != nil {
		return err
	}
	c, err := bundle.Unpack(packed)
	if err != nil {
		return err
	}
	b, err := opabundle.Write(c, about, key)
	if err != nil {
		return err
	}
	if err := provision.WriteFile(p.opa, b, fileMode); err != nil {
		return err
	}
	return p.tell(map[string]any{"file": p.opa, "level": about.Level, "scope": about.Scope, "version": about.Version, "key_id": opabundle.KeyID},
		fmt.Sprintf("%s: OPA bundle of %d modules, signed ES256 with key ID %q", p.opa, len(c.Modules), opabundle.KeyID))
}

// aboutOPA is what a bundle says of itself beside what OPA knows: its delegation tells, and without one
// the packages of the folder and the tree around it, which may leave the scope open.
func (p *publication) aboutOPA(dir string, key *ecdsa.PrivateKey) (about opabundle.About, err error) {
	about.Version = max(p.version, 1)
	if about.Level, err = workbench.LevelOf(dir); err != nil {
		return about, err
	}
	delegations, err := readAll(p.delegations)
	if err != nil {
		return about, err
	}
	switch {
	case len(delegations) > 0:
		var of provision.Policy
		if err := of.Under(&key.PublicKey, delegations); err != nil {
			return about, err
		}
		if of.Level != about.Level {
			return about, &usageError{fmt.Errorf("--delegation is for %s policy of %s, and %s holds %s policy", of.Level, of.Scope, dir, about.Level)}
		}
		about.Scope = of.Scope
	case about.Level == policy.Global:
		about.Scope = bundle.ScopeMesh
	case about.Level == policy.Regional:
		tree, err := workbench.Open(dir)
		if err != nil {
			return about, err
		}
		about.Scope = tree.Plan.TrustDomain
	}
	return about, nil
}

// opaBundle publishes what is in an OPA bundle.
func (p *publication) opaBundle(ctx context.Context, path, signer string) error {
	keys, err := config.PublicKeys("--opa-key", signer)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c, _, err := opabundle.Read(b, keys[0])
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	key, next, _, err := p.next(ctx)
	if err != nil {
		return err
	}
	if err := policy.Check(policy.Level{Name: next.Level, Modules: c.Modules, Data: c.Data, Schemas: c.Schemas}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if next.Content, err = c.Encode(); err != nil {
		return err
	}
	return p.sign(ctx, key, next)
}
