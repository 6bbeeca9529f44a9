package app

import (
	"context"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// reloading reloads whenever it is told to, until ctx ends.
func (a *App) reloading(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.reloads:
			a.reload()
		}
	}
}

// reload reads again what an operator changes while the node runs: trust records,
// policy and, on an issuer, registration entries. What cannot be used is logged, and what
// was in force before stays.
func (a *App) reload() {
	for _, path := range a.cfg.Trust.Records {
		err := eachRecord(string(path), func(raw []byte) error {
			r, news, err := a.creds.TakeTrust(raw, "file")
			if news {
				a.log.Info("reload: trust record taken over", "region", r.Region, "version", r.Version)
			}
			return err
		})
		if err != nil {
			a.log.Error("reload: a trust record is not taken over", "err", err)
		}
	}
	a.reloadPolicy()
	if a.issuing == nil {
		return
	}
	if n, err := a.issuing.Reload(); err != nil {
		a.log.Error("reload: registration entries are not taken over", "err", err)
	} else {
		a.log.Info("reload: registration entries taken over", "entries", n)
	}
}

// reloadPolicy puts the configured policy files in force. What signed state was refused
// before is looked at again; what was let in stays.
func (a *App) reloadPolicy() {
	before := a.engine.Revision()
	if err := a.policies.Reload(); err != nil {
		a.log.Error("reload: the policy is not taken over", "err", err, "in force", before)
		return
	}
	a.policyTaken(before)
}

// policyTaken acts on another generation, where one is in force since.
func (a *App) policyTaken(before string) {
	if a.engine.Revision() == before {
		return
	}
	a.log.Info("policy taken over", "revision", a.engine.Revision(), "schemas", len(a.engine.Schemas()))
	a.standing.roster() // its thresholds
	a.shadowing.Rebase()
	a.link.Recheck()
	a.data.recheck()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := a.replica.Reconsider(ctx); err != nil {
		a.log.Error("what policy refused before", "err", err)
	}
}

// eachRecord hands every trust record of a file to fn.
func eachRecord(path string, fn func(raw []byte) error) error {
	b, err := config.ReadFile("trust.records", path)
	if err != nil {
		return err
	}
	records, err := trust.Cut(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, raw := range records {
		if err := fn(raw); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
