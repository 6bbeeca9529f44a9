package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// ErrDiverges means that a trail on disk is signed and does not continue what is archived of it: its owner keeps
// two histories, or its disk was put back. Its head is in the bucket, under conflict/. Show both to who judges.
var ErrDiverges = errors.New("the trail does not continue the archive")

// atOnce is how many objects are under way together.
const atOnce = 8

// Config says how trails are archived.
type Config struct {
	Retain    time.Duration // how long an object is locked from when it is put
	Hold      Hold          // on everything archived of the trails, old and new
	Decisions bool          // segments of decisions too
}

// Hold is what becomes of a legal hold.
type Hold string

// Keep puts new objects under a legal hold where the newest archived head of their trail is; On and Off set it and
// take it off, of old objects too.
const (
	Keep Hold = ""
	On   Hold = "on"
	Off  Hold = "off"
)

// Pushed is what became of one trail.
type Pushed struct {
	Origin  string
	Before  uint64 // leaves that were archived before
	Size    uint64 // and are now
	Objects int    // that were put or found to be there, heads aside
	Err     error  // nil: all of the trail is archived up to its head
}

// Push archives what a state folder holds, the node's own trails and the copies it keeps, as far as they go. What is
// wrong with one trail does not stop the others. The error is about the folder, or is ctx's: ErrNothing or
// the file system's.
func Push(ctx context.Context, b *Bucket, state string, cfg Config) ([]Pushed, error) {
	all, err := find(state)
	if err != nil {
		return nil, err
	}
	// The end of the day: who goes on with what was begun today asks for the same.
	until := time.Now().UTC().Add(cfg.Retain).Truncate(24 * time.Hour).Add(24 * time.Hour)
	p := pusher{b: b, cfg: cfg, lock: Lock{Until: until, Hold: cfg.Hold == On}}
	var out []Pushed
	for _, o := range all {
		for _, e := range o.epochs {
			if ctx.Err() != nil {
				return out, context.Cause(ctx)
			}
			out = append(out, p.trail(ctx, trail.EpochDir(filepath.Join(o.dir, trailDir), e)))
		}
		if err := p.files(ctx, o, out[len(out)-1].Origin); err != nil {
			last := &out[len(out)-1]
			last.Err = errors.Join(last.Err, err)
		}
	}
	return out, nil
}

type pusher struct {
	b    *Bucket
	cfg  Config
	lock Lock // of new objects; its hold is that of the trail at hand
}

// trail archives one epoch.
func (p *pusher) trail(ctx context.Context, dir string) (done Pushed) {
	s, err := trail.OpenSnapshot(dir)
	if err != nil {
		done.Err = err
		return done
	}
	head, err := own(s)
	if err != nil {
		done.Err = fmt.Errorf("%s: %w", dir, err)
		return done
	}
	done.Origin = head.Origin
	fail := func(err error) Pushed { done.Err = fmt.Errorf("%s: %w", head.Origin, err); return done }

	archived, at, err := p.newest(ctx, s, head.Origin)
	if err != nil {
		return fail(err)
	}
	done.Before, done.Size = archived.Size, archived.Size
	if err := p.mirrorHold(ctx, head.Origin, at); err != nil {
		return fail(err)
	}
	if archived.Size > head.Size {
		return done // another archives it too, and has it from a source that is ahead
	}
	if root, err := s.Root(archived.Size); err != nil {
		return fail(err)
	} else if archived.Size > 0 && root != archived.Root {
		key := head.Origin + "/" + headKey(conflictDir, head.Size, sha256.Sum256(head.Raw))
		return fail(errors.Join(fmt.Errorf("%w of %d leaves", ErrDiverges, archived.Size), p.b.put(ctx, key, head.Raw, p.lock)))
	}
	if done.Objects, err = p.tiles(ctx, s, head.Origin, archived.Size); err != nil {
		return fail(err)
	}
	if archived.Size < head.Size {
		err = p.head(ctx, head)
	}
	if err == nil {
		err = p.witnessed(ctx, dir, head)
	}
	if err != nil {
		return fail(err)
	}
	done.Size = head.Size
	return done
}

// own is the snapshot's head, which its genesis' key signed and its tiles lead to.
func own(s *trail.Snapshot) (trail.Checkpoint, error) {
	g, err := s.Genesis()
	if err != nil {
		return trail.Checkpoint{}, err
	}
	head, err := trail.OpenCheckpoint(s.Head().Raw, g.Verifier)
	if err != nil {
		return head, err
	}
	root, err := s.Root(head.Size)
	if err == nil && root != head.Root {
		err = trail.ErrRoot
	}
	if origin, oerr := g.Origin(); err == nil && (oerr != nil || origin != head.Origin) {
		err = fmt.Errorf("%w: its genesis is of %s, its head of %s", trail.ErrCheckpoint, origin, head.Origin)
	}
	return head, err
}

// newest is the largest archived head that the trail's key signed, and where it is; zero where there is none.
func (p pusher) newest(ctx context.Context, s *trail.Snapshot, origin string) (trail.Checkpoint, version, error) {
	g, err := s.Genesis()
	if err != nil {
		return trail.Checkpoint{}, version{}, err
	}
	var all []version
	for v, err := range p.b.list(ctx, origin+"/"+headsDir+"/") {
		if err != nil {
			return trail.Checkpoint{}, version{}, err
		}
		all = append(all, v)
	}
	for _, v := range slices.Backward(all) {
		raw, err := p.b.get(ctx, v)
		if err != nil {
			return trail.Checkpoint{}, version{}, err
		}
		if c, err := trail.OpenCheckpoint(raw, g.Verifier); err == nil { // whose else it is, somebody put there
			return c, v, nil
		}
	}
	return trail.Checkpoint{}, version{}, nil
}

func (p pusher) tiles(ctx context.Context, s *trail.Snapshot, origin string, from uint64) (n int, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for f, err := range s.Files(from) {
		if err != nil || ctx.Err() != nil {
			return n, errors.Join(err, g.Wait())
		}
		n++
		g.Go(func() error { return p.b.put(ctx, origin+"/"+f.Path, f.Data, p.lock) })
	}
	return n, g.Wait()
}

// head makes what was put count.
func (p pusher) head(ctx context.Context, head trail.Checkpoint) error {
	if err := p.b.put(ctx, head.Origin+"/"+headKey(headsDir, head.Size, sha256.Sum256(head.Raw)), head.Raw, p.lock); err != nil {
		return err
	}
	return p.b.replace(ctx, head.Origin+"/checkpoint", head.Raw, p.lock)
}

// witnessed archives the heads that have their cosignatures: the newest, and those that the trail kept before it.
func (p pusher) witnessed(ctx context.Context, dir string, head trail.Checkpoint) error {
	heads, err := trail.ReadSeen(dir, 0, math.MaxInt)
	if err != nil {
		return err
	}
	newest, err := trail.ReadWitnessed(dir)
	if err != nil {
		return err
	}
	if newest != nil {
		heads = append(heads, newest)
	}
	there := map[string]bool{}
	for v, err := range p.b.list(ctx, head.Origin+"/"+trail.WitnessedPath+"/") {
		if err != nil {
			return err
		}
		there[v.key] = true
	}
	for _, raw := range heads {
		c, err := trail.PeekCheckpoint(raw)
		if err != nil {
			return err
		}
		key := head.Origin + "/" + headKey(trail.WitnessedPath, c.Size, sha256.Sum256(raw))
		if there[key] || c.Origin != head.Origin || c.Size > head.Size { // of a later head than the one that is archived: next time
			continue
		}
		if err := p.b.put(ctx, key, raw, p.lock); err != nil {
			return err
		}
	}
	return nil
}

// files archives what stands beside a node's trails: what heads and leaves rest on, and segments that leaves name.
func (p pusher) files(ctx context.Context, o owned, origin string) error {
	if origin == "" {
		return nil
	}
	for _, folder := range besideDirs {
		from, to := filepath.Join(o.dir, trailDir, folder), nodeKey(origin)+"/"+folder
		names, err := p.missing(ctx, from, to, besideName.MatchString)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := p.file(ctx, filepath.Join(from, name), to+"/"+name, nil); err != nil {
				return err
			}
		}
	}
	if !p.cfg.Decisions {
		return nil
	}
	segments, err := p.missing(ctx, filepath.Join(o.dir, decisionsDir), nodeKey(origin)+"/"+decisionsDir, segmentName.MatchString)
	if err != nil || len(segments) == 0 {
		return err
	}
	named, err := digests(ctx, o)
	if err != nil {
		return err
	}
	for _, name := range segments {
		if err := p.file(ctx, filepath.Join(o.dir, decisionsDir, name), nodeKey(origin)+"/"+decisionsDir+"/"+name, named); err != nil {
			return err
		}
	}
	return nil
}

// missing are the files of a folder that the bucket has not.
func (p pusher) missing(ctx context.Context, dir, key string, is func(string) bool) (out []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for v, err := range p.b.list(ctx, key+"/") {
		if err != nil {
			return nil, err
		}
		there[v.key] = true
	}
	for _, e := range entries {
		if is(e.Name()) && e.Type().IsRegular() && !there[key+"/"+e.Name()] {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// file archives one file; where digests are given, only if its own is one of them: the newest segment may still
// be replaced while no leaf names it.
func (p pusher) file(ctx context.Context, path, key string, digests map[[32]byte]bool) error {
	data, err := bounded.ReadFile(path, maxObject)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile, by its age
	}
	if err != nil || digests != nil && !digests[sha256.Sum256(data)] {
		return err
	}
	return p.b.put(ctx, key, data, p.lock)
}

// digests are those of the segments that the leaves of a node's trails name.
func digests(ctx context.Context, o owned) (map[[32]byte]bool, error) {
	out := map[[32]byte]bool{}
	for _, e := range o.epochs {
		s, err := trail.OpenSnapshot(trail.EpochDir(filepath.Join(o.dir, trailDir), e))
		if err != nil {
			return nil, err
		}
		for l, err := range s.Leaves(ctx, 0) {
			if err != nil {
				return nil, err
			}
			if l.Kind != trail.Segment.Name() {
				continue
			}
			body, _ := l.Plain().(map[string]any)
			named, _ := body["digest"].(string)
			if d, err := hex.DecodeString(named); err == nil && len(d) == sha256.Size {
				out[[32]byte(d)] = true
			}
		}
	}
	return out, nil
}

// mirrorHold settles the legal hold of the trail at hand. Where that of its newest head is not the one that is wanted,
// it is set or taken off on all that is archived of the trail, and of the files beside it. The head is the last: until
// then, all is done again.
func (p *pusher) mirrorHold(ctx context.Context, origin string, head version) error {
	p.lock.Hold = p.cfg.Hold == On
	if head.id == "" {
		return nil
	}
	l, err := p.b.lock(ctx, head)
	if err != nil {
		return err
	}
	if p.cfg.Hold == Keep {
		p.lock.Hold = l.Hold
	}
	if l.Hold == p.lock.Hold {
		return nil
	}
	g, walk := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	all := []string{origin + "/", nodeKey(origin) + "/" + decisionsDir + "/"}
	for _, folder := range besideDirs {
		all = append(all, nodeKey(origin)+"/"+folder+"/")
	}
	for _, under := range all {
		for v, err := range p.b.list(walk, under) {
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			if v != head {
				g.Go(func() error { return p.b.hold(walk, v, p.lock.Hold) })
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.b.hold(ctx, head, p.lock.Hold)
}
