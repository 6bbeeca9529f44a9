package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// ErrNotArchived means that the bucket has no trail of whom was asked for, or none whose head anybody signed.
var ErrNotArchived = errors.New("no such trail is archived")

// Fetched is one trail that was fetched.
type Fetched struct {
	Origin   string
	Node     spiffeid.ID
	Dir      string // of this epoch, as trail.Verify takes it; the folder above it as bailiwick trail verify does
	Size     uint64
	Absent   int // objects that its head needs and that are not there: leaves removed by age, or since
	Unlocked int // objects whose retention has run out, or that never had one, and that have no legal hold
}

// Fetch brings trails from the bucket into a folder, each into <dir>/<td>/<node>/trail/<epoch>, a node in a zone as
// <zone>+<node>: those of one node or, where id is zero, all. Nothing is judged but the signature of the head:
// that is for trail.Verify. The folder should be a new one. Errors wrap ErrNotArchived, or are the network's or the
// file system's.
func Fetch(ctx context.Context, b *Bucket, id spiffeid.ID, dir string) ([]Fetched, error) {
	all, err := index(ctx, b, id)
	if err != nil {
		return nil, err
	}
	f := fetcher{b: b, dir: dir, now: time.Now(), all: all}
	var out []Fetched
	beside := map[string]string{} // what stands beside trails, by the node's key
	for _, origin := range slices.Sorted(maps.Keys(f.origins())) {
		node, epoch, err := trail.ParseOrigin(origin)
		if err != nil || !id.IsZero() && node != id {
			continue // not ours, or of a node whose name begins with this one's
		}
		one := Fetched{Origin: origin, Node: node, Dir: trail.EpochDir(filepath.Join(dir, localDir(node), trailDir), epoch)}
		if err := f.trail(ctx, &one); errors.Is(err, ErrNotArchived) {
			continue
		} else if err != nil {
			return out, fmt.Errorf("%s: %w", origin, err)
		}
		out = append(out, one)
		beside[nodeKey(origin)] = filepath.Join(dir, localDir(node))
	}
	for key, to := range beside {
		err := f.folder(ctx, key+"/"+decisionsDir+"/", filepath.Join(to, decisionsDir), segmentName.MatchString)
		for _, folder := range besideDirs {
			err = errors.Join(err, f.folder(ctx, key+"/"+folder+"/", filepath.Join(to, trailDir, folder), besideName.MatchString))
		}
		if err != nil {
			return out, err
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNotArchived, id)
	}
	return out, nil
}

// index is the oldest version of each object there is.
func index(ctx context.Context, b *Bucket, id spiffeid.ID) (map[string]version, error) {
	under := ""
	if !id.IsZero() {
		origin, err := trail.Origin(id, 0)
		if err != nil {
			return nil, err
		}
		under = nodeKey(origin) + "/"
	}
	all := map[string]version{}
	for v, err := range b.list(ctx, under) {
		if err != nil {
			return nil, err
		}
		all[v.key] = v
	}
	return all, nil
}

type fetcher struct {
	b   *Bucket
	dir string
	now time.Time
	all map[string]version
}

// origins are the trails that have a head.
func (f fetcher) origins() map[string]bool {
	out := map[string]bool{}
	for key := range f.all {
		if dir := path.Dir(key); path.Base(dir) == headsDir {
			out[path.Dir(dir)] = true
		}
	}
	return out
}

// heads are those of a folder of heads, the largest first.
func (f fetcher) heads(under string) (out []version) {
	for key, v := range f.all {
		if name, ok := strings.CutPrefix(key, under+"/"); ok {
			if _, ok := headSize(name); ok {
				out = append(out, v)
			}
		}
	}
	slices.SortFunc(out, func(a, b version) int { return strings.Compare(b.key, a.key) })
	return out
}

// trail fetches one epoch as of the largest head that its key signed.
func (f fetcher) trail(ctx context.Context, one *Fetched) error {
	for _, h := range f.heads(one.Origin + "/" + headsDir) {
		raw, err := f.b.get(ctx, h)
		if err != nil {
			return err
		}
		vkey, err := f.begin(ctx, one, raw)
		if err != nil { // somebody else put it there
			if err := errors.Join(ctx.Err(), os.RemoveAll(one.Dir)); err != nil {
				return err
			}
			continue
		}
		if one.Unlocked, err = f.unlocked(ctx, h); err != nil {
			return err
		}
		if err := f.tiles(ctx, one); err != nil {
			return err
		}
		return f.witnessed(ctx, one, vkey)
	}
	return fmt.Errorf("%w: %s", ErrNotArchived, one.Origin)
}

// begin fetches the first bundle, whose genesis says which key must have signed the head.
func (f fetcher) begin(ctx context.Context, one *Fetched, raw []byte) (vkey string, err error) {
	c, err := trail.PeekCheckpoint(raw)
	if err != nil {
		return "", err
	}
	for first := range trail.Paths(0, c.Size) {
		err = errors.Join(f.file(ctx, one.Origin+"/"+first, filepath.Join(one.Dir, first)), f.put(filepath.Join(one.Dir, "checkpoint"), raw))
		break
	}
	if err != nil {
		return "", err
	}
	g, err := trail.ReadGenesis(one.Dir)
	if err != nil {
		return "", err
	}
	if c, err = trail.OpenCheckpoint(raw, g.Verifier); err == nil && c.Origin != one.Origin {
		err = trail.ErrCheckpoint
	}
	one.Size = c.Size
	return g.Verifier, err
}

// unlocked is 1 for an object that nothing protects any more.
func (f fetcher) unlocked(ctx context.Context, v version) (int, error) {
	l, err := f.b.lock(ctx, v)
	if err == nil && !l.Hold && !l.Until.After(f.now) {
		return 1, nil
	}
	return 0, err
}

// tiles fetches what the head needs, as far as it is there.
func (f fetcher) tiles(ctx context.Context, one *Fetched) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	var mu sync.Mutex
	for p := range trail.Paths(0, one.Size) {
		v, ok := f.all[one.Origin+"/"+p]
		if !ok {
			one.Absent++
			continue
		}
		g.Go(func() error {
			n, err := f.unlocked(ctx, v)
			if err != nil {
				return err
			}
			mu.Lock()
			one.Unlocked += n
			mu.Unlock()
			return f.file(ctx, v.key, filepath.Join(one.Dir, p))
		})
	}
	return g.Wait()
}

// witnessed fetches the heads with cosignatures that lie in the trail's past: the newest is the one that is witnessed,
// the others say by when leaves existed.
func (f fetcher) witnessed(ctx context.Context, one *Fetched, vkey string) error {
	newest := true
	for _, h := range f.heads(one.Origin + "/" + trail.WitnessedPath) {
		raw, err := f.b.get(ctx, h)
		if err != nil {
			return err
		}
		c, err := trail.OpenCheckpoint(raw, vkey)
		if err != nil || c.Size > one.Size {
			continue
		}
		path := trail.SeenPath(c.Size)
		if newest {
			path, newest = trail.WitnessedPath, false
		}
		if err := f.put(filepath.Join(one.Dir, path), raw); err != nil {
			return err
		}
	}
	return nil
}

// folder fetches files that stand beside trails.
func (f fetcher) folder(ctx context.Context, under, to string, is func(string) bool) error {
	for key := range f.all {
		if name, ok := strings.CutPrefix(key, under); ok && is(name) {
			if err := f.file(ctx, key, filepath.Join(to, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f fetcher) file(ctx context.Context, key, to string) error {
	v, ok := f.all[key]
	if !ok {
		return fmt.Errorf("%w: %s", ErrNotArchived, key)
	}
	data, err := f.b.get(ctx, v)
	if err != nil {
		return err
	}
	return f.put(to, data)
}

func (f fetcher) put(to string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return durable.Replace(to, data, 0o600)
}
