package feed

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

const (
	// MaxCover is the largest cover, in bytes.
	MaxCover = 6 << 10

	// CoverGrace is how long after the end of an epoch certificate a checkpoint still
	// counts for what it signed. Records are taken without one for half as long, so that
	// the last of them are in one.
	CoverGrace = 5 * time.Minute

	maxPath = 32 // of an audit path
)

var (
	// ErrCover means bytes are no cover, or its parts do not fit. It is the fault of
	// whoever wrote it.
	ErrCover = errors.New("cover does not hold")

	// ErrUncovered means a record under an expired epoch certificate that no
	// checkpoint made in time covers: whoever stole the key could have written it
	// since. A renewed certificate or a cover makes it count.
	ErrUncovered = errors.New("the record's certificate has expired, and no checkpoint made before that covers it")
)

// Checkpoint is what an authority signed of its region's frontier.
type Checkpoint struct {
	Root  [32]byte // Frontier.Root
	Feeds uint64   // with records
	At    time.Time
}

// CheckpointFunc verifies a signed checkpoint of a trust domain. It must not depend
// on the time of the call. Its errors may wrap ErrUncheckable.
type CheckpointFunc func(signed []byte, td spiffeid.TrustDomain) (Checkpoint, error)

// cover is the encoding of the package doc.
type cover struct {
	Checkpoint []byte     `cbor:"1,keyasint"`
	Head       headEntry  `cbor:"2,keyasint"`
	Index      uint64     `cbor:"3,keyasint,omitempty"`
	Path       [][32]byte `cbor:"4,keyasint,omitempty"`
}

// Cover says that a feed had reached a head when its region's checkpoint was made.
type Cover struct {
	Feed FeedID
	Seq  uint64
	ID   ID
	At   time.Time
}

// Size returns how many feeds of the frontier have records: those of a checkpoint.
func (f Frontier) Size() (n uint64) {
	for _, h := range f {
		if h.Seq > 0 {
			n++
		}
	}
	return n
}

// MakeCovers returns the covers of those feeds of a frontier that want says, under
// the signed checkpoint that was made of it.
func MakeCovers(signed []byte, f Frontier, want func(FeedID) bool) (map[FeedID][]byte, error) {
	var ids []FeedID
	var hashes [][32]byte
	for _, id := range f.Feeds() {
		if h := f[id]; h.Seq > 0 {
			ids, hashes = append(ids, id), append(hashes, leafHash(entryOf(id, h)))
		}
	}
	out := map[FeedID][]byte{}
	for i, id := range ids {
		if !want(id) {
			continue
		}
		b, err := statement.Marshal(cover{
			Checkpoint: signed, Head: headEntry{id.Origin.String(), id.Epoch, f[id].Seq, f[id].ID},
			Index: uint64(i), Path: treePath(hashes, i),
		})
		if err != nil {
			return nil, err
		}
		if len(b) > MaxCover {
			return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrCover, len(b), MaxCover)
		}
		out[id] = b
	}
	return out, nil
}

func parseCover(b []byte) (cover, FeedID, error) {
	var c cover
	if len(b) > MaxCover {
		return c, FeedID{}, fmt.Errorf("%w: %d bytes, at most %d", ErrCover, len(b), MaxCover)
	}
	if err := statement.Unmarshal(b, &c); err != nil {
		return c, FeedID{}, fmt.Errorf("%w: %w", ErrCover, err)
	}
	f, err := c.Head.feed()
	if err == nil && len(c.Path) > maxPath {
		err = fmt.Errorf("path of %d hashes", len(c.Path))
	}
	if err != nil {
		return c, FeedID{}, fmt.Errorf("%w: %w", ErrCover, err)
	}
	return c, f, nil
}

// VerifyCover checks a cover. Errors wrap ErrCover when it is false, or
// ErrUncheckable when its checkpoint cannot be judged here.
func VerifyCover(b []byte, checkpoints CheckpointFunc) (Cover, error) {
	c, f, err := parseCover(b)
	if err != nil {
		return Cover{}, err
	}
	made, err := checkpoints(c.Checkpoint, f.Origin.TrustDomain())
	if err != nil {
		return Cover{}, fmt.Errorf("%w: %w", ErrUncheckable, err)
	}
	leaf := leafHash(entryOf(f, Head{Seq: c.Head.Seq, ID: c.Head.ID}))
	if c.Index >= made.Feeds || made.Feeds > 1<<maxPath {
		return Cover{}, fmt.Errorf("%w: feed %d of %d", ErrCover, c.Index, made.Feeds)
	}
	if root, ok := pathRoot(leaf, int(c.Index), int(made.Feeds), c.Path); !ok || root != made.Root {
		return Cover{}, fmt.Errorf("%w: %s is not under the checkpoint's root", ErrCover, f)
	}
	return Cover{Feed: f, Seq: c.Head.Seq, ID: c.Head.ID, At: made.At}, nil
}

// CoverName returns the name of the key that holds a feed's cover.
func CoverName(f FeedID) string {
	digest := statement.Digest(binary.BigEndian.AppendUint64(append([]byte(f.Origin.String()), 0), f.Epoch))
	return hex.EncodeToString(digest[:16])
}

// coverSchema wants a well-formed cover under its feed's name. Whether it holds
// needs keys: VerifyCover says.
func coverSchema(name string, value []byte) error {
	_, f, err := parseCover(value)
	if err == nil && name != CoverName(f) {
		err = fmt.Errorf("cover named %q is not named by its feed", name)
	}
	return err
}

// Cover takes a verified cover of one of the origin's feeds, and reports whether it
// is news: in time for the certificate, and further than the one before.
func (c *Chain) Cover(v Cover) bool {
	l, ok := c.lines[v.Feed.Epoch]
	if !ok || v.Feed.Origin != c.origin || v.Seq <= l.cover.Seq || v.At.After(l.key.NotAfter.Add(CoverGrace)) {
		return false
	}
	l.cover = v
	if l.ahead != nil {
		l.ahead, l.parts = nil, nil
	}
	return true
}

// lapsed reports whether what the line's key signed counts only if it is covered.
func (l *line) lapsed(now time.Time) bool { return now.After(l.key.NotAfter.Add(CoverGrace / 2)) }
