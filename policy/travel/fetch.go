package travel

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

const (
	openQuestions = 4 // parts of a content that are asked for at once
	firstPatience = 3 * time.Second
	lastPatience  = 30 * time.Second // a chunk over 64 kbit/s takes eight seconds
)

// content returns the content of a record: held, or fetched part by part. Errors wrap ErrNoContent
// or the store's; parts that came stay on the disk.
func (d *Desk) content(ctx context.Context, r *bundle.Record) ([]byte, error) {
	if b := d.cfg.Held(r.Chunks); b != nil {
		return b, nil
	}
	if err := r.Travels(); err != nil {
		return nil, err
	}
	if err := d.makeRoom(r.Chunks); err != nil {
		return nil, err
	}
	f := &fetching{Desk: d, record: r, heard: map[spiffeid.ID]standing{}}
	var err error
	if f.list, err = f.part(ctx, 0); err != nil {
		return nil, err
	}
	if err := r.CheckList(f.list); err != nil { // it was damaged on the disk
		if err := d.parts.drop(func(digest [32]byte) bool { return digest != r.Chunks }); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrNoContent, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(openQuestions)
	content := make([]byte, r.Size)
	for i := range r.Count() {
		g.Go(func() error {
			b, err := f.part(ctx, i+1)
			copy(content[i*bundle.ChunkSize:], b)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return content, nil
}

// makeRoom forgets the content that was asked for longest ago where too many are here in parts, of
// those that are not worked on.
func (d *Desk) makeRoom(digest [32]byte) error {
	have, err := d.parts.digests()
	if err != nil {
		return err
	}
	gone, is := d.room(digest, have)
	if !is {
		return nil
	}
	return d.parts.drop(func(digest [32]byte) bool { return digest != gone })
}

// room notes that a content is fetched now, and returns which of those here is to go for it.
func (d *Desk) room(digest [32]byte, have [][32]byte) (oldest [32]byte, is bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recent = append(slices.DeleteFunc(d.recent, func(r [32]byte) bool { return r == digest || !slices.Contains(have, r) }), digest)
	if len(have) < maxPartial || slices.Contains(have, digest) {
		return oldest, false
	}
	working := func(digest [32]byte) bool {
		for _, c := range d.busy {
			if c.record.Record.Chunks == digest {
				return true
			}
		}
		return false
	}
	age := func(a, b [32]byte) int { return slices.Index(d.recent, a) - slices.Index(d.recent, b) } // -1: of before the start
	have = slices.DeleteFunc(slices.Clone(have), working)
	if len(have) == 0 {
		return oldest, false
	}
	return slices.MinFunc(have, age), true
}

// Longest is how long one answer may take over a link of so many bytes a second: as all that a node
// asks of a peer at once, on two levels, with as much of something else. 0 for a link without a limit.
func Longest(rate uint64) time.Duration {
	if rate == 0 {
		return 0
	}
	return time.Duration(2 * 2 * openQuestions * MaxAnswer / float64(rate) * float64(time.Second))
}

// standing is what a peer did in one attempt.
type standing int

const (
	fresh  standing = iota // no question failed
	silent                 // it did not answer in firstPatience, or not at all: asked last
	gone                   // it did not answer in lastPatience, or with something else: asked no more
)

// fetching is one attempt at a content.
type fetching struct {
	*Desk
	record *bundle.Record
	list   []byte // nil while it is asked for

	mu    sync.Mutex
	heard map[spiffeid.ID]standing
}

// part returns one part, from the disk or from the first peer that has it.
func (f *fetching) part(ctx context.Context, part int) ([]byte, error) {
	b, err := f.parts.get(f.record.Chunks, part)
	if err != nil || b != nil {
		return b, err
	}
	ask := question{f.record.Chunks, uint32(part)}.encode()
	lacks := map[spiffeid.ID]bool{}
	for {
		peer, patience := f.next(part, lacks)
		if patience == 0 {
			return nil, fmt.Errorf("%w: %s, part %d of %d, %d peers lack it", ErrNoContent, f.record, part, f.record.Count(), len(lacks))
		}
		b, err := f.ask(ctx, peer, ask, size(f.record, part), patience)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && patience == lastPatience:
			f.hear(peer, gone)
		case err != nil:
			f.hear(peer, silent)
		case len(b) == 0:
			lacks[peer] = true
		default:
			err := check(f.record, f.list, part, b)
			if err == nil {
				return b, f.parts.put(f.record.Chunks, part, b)
			}
			f.hear(peer, gone)
			f.cfg.Log.Warn("a peer answers with other content than the policy record names", "peer", peer, "part", part, "err", err)
		}
	}
}

func (f *fetching) ask(ctx context.Context, peer spiffeid.ID, question []byte, limit int, patience time.Duration) ([]byte, error) {
	if f.cfg.Budget != nil {
		patience += Longest(f.cfg.Budget(peer))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f.cfg.Ask(ctx, peer, question, limit)
}

// next returns whom to ask for a part now and how long to wait for it: those in reach of whom
// nothing is known first, and not for long while there are others; 0 when there is none left.
func (f *fetching) next(part int, lacks map[spiffeid.ID]bool) (spiffeid.ID, time.Duration) {
	peers := f.cfg.Peers(f.record)
	if part > 0 && len(peers) > 1 { // not everything of one peer
		at := part % len(peers)
		peers = slices.Concat(peers[at:], peers[:at])
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	peers = slices.DeleteFunc(slices.Clone(peers), func(p spiffeid.ID) bool { return lacks[p] || f.heard[p] == gone })
	if len(peers) == 0 {
		return spiffeid.ID{}, 0
	}
	best := slices.MinFunc(peers, func(a, b spiffeid.ID) int { return cmp.Compare(f.heard[a], f.heard[b]) })
	if len(peers) > 1 && f.heard[best] == fresh {
		return best, firstPatience
	}
	return best, lastPatience
}

func (f *fetching) hear(peer spiffeid.ID, s standing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard[peer] = max(f.heard[peer], s)
}

// Answer answers a peer's question: nothing where the part is not here. Errors wrap ErrQuestion or
// the store's.
func (d *Desk) Answer(b []byte) ([]byte, error) {
	q, err := parseQuestion(b)
	if err != nil {
		return nil, err
	}
	if content := d.cfg.Held(q.Digest); content != nil {
		return cut(content, int(q.Part)), nil
	}
	return d.parts.get(q.Digest, int(q.Part))
}
