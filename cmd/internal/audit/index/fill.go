package index

import (
	"context"
	"database/sql"
	"errors"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// bundle is how many leaves a trail loses at once by age.
const bundle = 256

// filler inserts leaves of one trail in one transaction.
type filler struct {
	ctx                      context.Context
	id                       int64 // of the trail
	kind, leaf, name, denial *sql.Stmt
}

func newFiller(ctx context.Context, tx *sql.Tx, id int64) (f *filler, err error) {
	f = &filler{ctx: ctx, id: id}
	for _, s := range []struct {
		to  **sql.Stmt
		sql string
	}{
		{&f.kind, "INSERT OR IGNORE INTO kind VALUES (?, ?)"},
		{&f.leaf, "INSERT OR REPLACE INTO leaf VALUES (?, ?, ?, ?)"},
		{&f.name, "INSERT OR REPLACE INTO name VALUES (?, ?, ?, ?, ?)"},
		{&f.denial, "INSERT OR IGNORE INTO denial VALUES (?, ?, ?, ?, ?, ?)"},
	} {
		if *s.to, err = tx.PrepareContext(ctx, s.sql); err != nil {
			return nil, errors.Join(err, f.close())
		}
	}
	return f, nil
}

func (f *filler) close() (err error) {
	for _, s := range []*sql.Stmt{f.kind, f.leaf, f.name, f.denial} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

func (f *filler) add(x fact.Fact) error {
	at := x.At.UnixMilli()
	if _, err := f.leaf.ExecContext(f.ctx, f.id, x.Kind, at, x.Index); err != nil {
		return err
	}
	what := audit.Denial(x)
	for _, n := range x.Names {
		if _, err := f.name.ExecContext(f.ctx, n, f.id, x.Kind, at, x.Index); err != nil {
			return err
		}
		if what == "" {
			continue
		}
		if _, err := f.denial.ExecContext(f.ctx, f.id, n, what, x.Index/bundle, at, x.Index); err != nil {
			return err
		}
	}
	return nil
}

// fill indexes the next leaves, and says up to which.
func fill(ctx context.Context, tx *sql.Tx, s *trail.Snapshot, id int64, next uint64) (end uint64, err error) {
	f, err := newFiller(ctx, tx, id)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	end = min(next+batch, s.Head().Size)
	kinds := map[string]bool{}
	for l, err := range s.Leaves(ctx, next) {
		if err != nil {
			return 0, err
		}
		if l.Index >= end {
			break
		}
		if !kinds[l.Kind] {
			kinds[l.Kind] = true
			if _, err := f.kind.ExecContext(ctx, id, l.Kind); err != nil {
				return 0, err
			}
		}
		if err := f.add(fact.Read(s.Head().Origin, l)); err != nil {
			return 0, err
		}
	}
	return end, nil
}
