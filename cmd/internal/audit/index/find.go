package index

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// Find is audit.Scan by the index: the same answer, for what Update has seen.
func (x *Index) Find(ctx context.Context, dirs []string, f audit.Filter) (out []fact.Fact, err error) {
	for _, dir := range dirs {
		err := audit.EachEpoch(dir, func(s *trail.Snapshot) error {
			some, err := x.find(ctx, s, f)
			if out = append(out, some...); len(out) > 10*audit.MaxLeaves {
				err = fmt.Errorf("%w: %d", audit.ErrTooMany, len(out))
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return f.Choose(out), nil
}

// find is Find in one trail, in its order: page by page from the newest, until there are enough.
func (x *Index) find(ctx context.Context, s *trail.Snapshot, f audit.Filter) (out []fact.Fact, err error) {
	if f.Newest == 0 || f.FirstDenials {
		places, err := x.places(ctx, s, f, place{at: math.MaxInt64}, 10*audit.MaxLeaves+1)
		if err != nil {
			return nil, err
		}
		return read(s, places, f)
	}
	for before := (place{at: math.MaxInt64}); ; {
		page, err := x.places(ctx, s, f, before, f.Newest)
		if err != nil {
			return nil, err
		}
		if len(page) > 0 {
			before = page[len(page)-1]
		}
		some, err := read(s, page, f)
		if err != nil {
			return nil, err
		}
		if out = append(out, some...); len(out) >= f.Newest || len(page) < f.Newest {
			slices.SortFunc(out, func(a, b fact.Fact) int { return cmp.Compare(a.Index, b.Index) })
			return out, nil
		}
	}
}

// read is what leaves say, of those that are still there and pass, in the order of the trail.
func read(s *trail.Snapshot, places []place, f audit.Filter) (out []fact.Fact, err error) {
	for _, p := range slices.SortedFunc(slices.Values(places), func(a, b place) int { return cmp.Compare(a.index, b.index) }) {
		raw, err := s.Raw(p.index)
		if errors.Is(err, trail.ErrPruned) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := trail.ParseLeaf(raw)
		if err != nil {
			return nil, err
		}
		if one := fact.Read(s.Head().Origin, trail.Indexed{Index: p.index, Leaf: l}); f.Passes(one) {
			out = append(out, one)
		}
	}
	return out, nil
}

// place is where a leaf is, in time and in its trail.
type place struct {
	at    int64 // Unix milliseconds
	index uint64
}

func newestFirst(a, b place) int {
	return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(b.index, a.index))
}

// places are the leaves of a trail that may pass, before one of them, newest first and at most so many.
func (x *Index) places(ctx context.Context, s *trail.Snapshot, f audit.Filter, before place, most int) (out []place, err error) {
	var id int64
	err = x.db.QueryRowContext(ctx, "SELECT id FROM trail WHERE origin = ?", s.Head().Origin).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	var kinds []string
	if err == nil {
		kinds, err = x.kinds(ctx, id, f)
	}
	for _, k := range kinds {
		var some []place
		switch {
		case err != nil:
		case k == trail.DecisionDeny.Name() && f.FirstDenials && f.Subject != "" && !isPrefix(f.Subject) && f.From.IsZero() && f.Text == "" && f.Keep == nil:
			some, err = x.firstDenials(ctx, id, f.Subject, s.FirstKept())
		default:
			some, err = x.search(ctx, id, k, f, before, most)
		}
		out = append(out, some...)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	slices.SortFunc(out, newestFirst)
	out = slices.Compact(out)
	return out[:min(len(out), most)], nil
}

// kinds are those of a trail that a filter chooses: each is one stretch of every table.
func (x *Index) kinds(ctx context.Context, id int64, f audit.Filter) (out []string, err error) {
	rows, err := x.db.QueryContext(ctx, "SELECT kind FROM kind WHERE trail = ?", id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var k string
		if err := rows.Scan(&k); err != nil {
			return nil, err
		}
		if (audit.Filter{Kinds: f.Kinds}).Passes(fact.Fact{Kind: k}) {
			out = append(out, k)
		}
	}
	return out, rows.Err()
}

// search looks in the table that has what a filter asks for in one stretch, sorted by time.
func (x *Index) search(ctx context.Context, id int64, kind string, f audit.Filter, before place, most int) (out []place, err error) {
	q := query{}
	switch prefix := isPrefix(f.Subject); {
	case f.Subject != "" && prefix:
		q.begin("SELECT at, idx FROM name WHERE name >= ? AND name < ? AND trail = ? AND kind = ?", f.Subject, f.Subject+"g", id, kind)
	case f.Subject != "":
		q.begin("SELECT at, idx FROM name WHERE name = ? AND trail = ? AND kind = ?", f.Subject, id, kind)
	default:
		q.begin("SELECT at, idx FROM leaf WHERE trail = ? AND kind = ?", id, kind)
	}
	if !f.From.IsZero() {
		q.and("at >= ?", f.From.UnixMilli())
	}
	if !f.To.IsZero() {
		q.and("at <= ?", f.To.UnixMilli())
	}
	if before.at < math.MaxInt64 {
		q.and("(at, idx) < (?, ?)", before.at, before.index)
	}
	q.begin(q.sql+" ORDER BY at DESC, idx DESC LIMIT ?", append(q.args, most)...)
	rows, err := x.db.QueryContext(ctx, q.sql, q.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p place
		if err := rows.Scan(&p.at, &p.index); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// isPrefix reports whether a subject may be the first digits of an ID; see fact.Fact.About.
func isPrefix(subject string) bool {
	return len(subject) >= 8 && strings.Trim(subject, "0123456789abcdef") == ""
}

// firstDenials are the first of each sort of denials that name a subject and are still there.
func (x *Index) firstDenials(ctx context.Context, id int64, name string, kept uint64) (out []place, err error) {
	const each = `
WITH RECURSIVE sort(what) AS (
  SELECT MIN(what) FROM denial WHERE trail = ?1 AND name = ?2
  UNION ALL
  SELECT (SELECT MIN(what) FROM denial WHERE trail = ?1 AND name = ?2 AND what > sort.what) FROM sort WHERE sort.what IS NOT NULL)
SELECT d.at, d.idx FROM sort JOIN denial d ON d.trail = ?1 AND d.name = ?2 AND d.what = sort.what AND d.bundle =
  (SELECT MIN(bundle) FROM denial WHERE trail = ?1 AND name = ?2 AND what = sort.what AND (bundle = 0 OR bundle >= ?3))`
	rows, err := x.db.QueryContext(ctx, each, id, name, kept/bundle)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p place
		if err := rows.Scan(&p.at, &p.index); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

type query struct {
	sql  string
	args []any
}

func (q *query) begin(sql string, args ...any) { q.sql, q.args = sql, args }

func (q *query) and(sql string, args ...any) {
	q.sql, q.args = q.sql+" AND "+sql, append(q.args, args...)
}
