package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/opabundle"
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
	about := opabundle.About{Level: policy.Global, Scope: bundle.ScopeMesh, Version: max(p.version, 1)}
	delegations, err := readAll(p.delegations)
	if err != nil {
		return err
	}
	if len(delegations) > 0 {
		var of provision.Policy
		if err := of.Under(&key.PublicKey, delegations); err != nil {
			return err
		}
		about.Level, about.Scope = of.Level, of.Scope
	}
	packed, err := bundle.Pack(dir)
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
