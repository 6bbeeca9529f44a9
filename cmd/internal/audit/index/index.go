// Package index finds leaves in trails of millions without reading them whole: a SQLite file
// that says which leaf is of which kind and time, and what it names.
//
//	trail   origin, and the head up to which it is indexed
//	kind    the kinds of a trail
//	leaf    trail, kind, time -> index
//	name    what a leaf names, trail, kind, time -> index
//	denial  trail, target, generation, caller and rule -> the first in each bundle of 256 leaves, which
//	        is what a trail loses at once by age
//
// Each question is a search in one of them, in order of time, that ends with as many as are wanted.
//
// The file says where to look and nothing else. What a leaf says is read from the trail's tiles
// each time and held against the question again, so a wrong index can hide a leaf, never make
// one up. It can be deleted at any time: Update makes it anew. Update goes on where the indexed
// head is still in the trail's past, and begins a trail again where it is not; a file of an older
// version is emptied first.
//
// Several processes may use one file; one of them writes at a time.
package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // the driver; pure Go

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
)

// ErrIndex means that a file is no index, or a damaged one. Delete it: it is made anew.
var ErrIndex = errors.New("not an index of trails")

// version is that of the schema.
const version = 3

const schema = `
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS trail (id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, root BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS kind (trail INTEGER NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (trail, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leaf (trail INTEGER NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (trail, kind, at, idx)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS name (name TEXT NOT NULL, trail INTEGER NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (name, trail, kind, at, idx)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS denial (trail INTEGER NOT NULL, name TEXT NOT NULL, what TEXT NOT NULL, bundle INTEGER NOT NULL, at INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (trail, name, what, bundle)) WITHOUT ROWID;
PRAGMA user_version = 3;`

// older are the tables of versions before.
const older = "DROP TABLE IF EXISTS name; DROP TABLE IF EXISTS leaf; DROP TABLE IF EXISTS trail;"

// Index is an open index file. Its methods may be called concurrently.
type Index struct{ db *sql.DB }

// Open opens an index file, or makes one. Errors wrap ErrIndex.
func Open(ctx context.Context, path string) (*Index, error) {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrIndex, path, err)
	}
	var found int
	err = db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&found)
	if err == nil && found > version {
		err = fmt.Errorf("it is of a newer version, %d", found)
	}
	if err == nil && found > 0 && found < version {
		_, err = db.ExecContext(ctx, older)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, schema)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrIndex, path, err), db.Close())
	}
	return &Index{db}, nil
}

// Close closes the file.
func (x *Index) Close() error { return x.db.Close() }

// batch is how many leaves are written at once.
const batch = 20_000

// Update indexes what the trails in folders <state>/trail have more than the index.
func (x *Index) Update(ctx context.Context, dirs []string) error {
	for _, dir := range dirs {
		if err := audit.EachEpoch(dir, func(s *trail.Snapshot) error { return x.update(ctx, s) }); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

func (x *Index) update(ctx context.Context, s *trail.Snapshot) error {
	head := s.Head()
	id, next, err := x.begin(ctx, s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	for next < head.Size {
		if next, err = x.add(ctx, s, id, next); err != nil {
			return err
		}
	}
	return nil
}

// begin returns where to go on, after forgetting a trail that is not the one indexed.
func (x *Index) begin(ctx context.Context, s *trail.Snapshot) (id int64, next uint64, err error) {
	var root []byte
	err = x.db.QueryRowContext(ctx, "SELECT id, size, root FROM trail WHERE origin = ?", s.Head().Origin).Scan(&id, &next, &root)
	if errors.Is(err, sql.ErrNoRows) {
		r, err := x.db.ExecContext(ctx, "INSERT INTO trail (origin, size, root) VALUES (?, 0, x'')", s.Head().Origin)
		if err != nil {
			return 0, 0, err
		}
		id, err = r.LastInsertId()
		return id, 0, err
	}
	if err != nil || next == 0 {
		return id, 0, err
	}
	if next <= s.Head().Size {
		if now, err := s.Root(next); err == nil && string(now[:]) == string(root) {
			return id, next, nil
		}
	}
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, 0, err
	}
	for _, q := range []string{
		"DELETE FROM kind WHERE trail = ?", "DELETE FROM leaf WHERE trail = ?", "DELETE FROM name WHERE trail = ?", "DELETE FROM denial WHERE trail = ?",
		"UPDATE trail SET size = 0, root = x'' WHERE id = ?",
	} {
		if _, err := tx.ExecContext(ctx, q, id); err != nil {
			return 0, 0, errors.Join(err, tx.Rollback())
		}
	}
	return id, 0, tx.Commit()
}

// add indexes the next leaves in one transaction, and says up to which.
func (x *Index) add(ctx context.Context, s *trail.Snapshot, id int64, next uint64) (uint64, error) {
	tx, err := x.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	end, err := fill(ctx, tx, s, id, next)
	if err != nil {
		return 0, errors.Join(err, tx.Rollback())
	}
	root, err := s.Root(end)
	if err == nil {
		_, err = tx.ExecContext(ctx, "UPDATE trail SET size = ?, root = ? WHERE id = ?", end, root[:], id)
	}
	if err != nil {
		return 0, errors.Join(err, tx.Rollback())
	}
	return end, tx.Commit()
}
