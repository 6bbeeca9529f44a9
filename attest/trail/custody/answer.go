package custody

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Answer answers a peer's question. A trail that is not here has an empty answer. Errors wrap
// ErrQuestion, ErrNotCustodian or the disk's; then there is no answer. It may be called from any
// goroutine.
func (k *Keeper) Answer(peer spiffeid.ID, b []byte) ([]byte, error) {
	q, err := parseQuestion(b)
	if err != nil {
		return nil, err
	}
	if !k.mayAsk(peer, q.owner) && !(q.headOnly() && sameRegion(peer, q.owner, k.cfg.Self)) {
		return nil, fmt.Errorf("%w: %s, of %s", ErrNotCustodian, peer, q.owner)
	}
	where := k.place(q.owner)
	var a answer
	switch {
	case q.Folder != "" && k.cfg.Beside[q.Folder] == nil:
	case q.Folder != "" && q.File != "":
		a.Part, err = part(filepath.Join(where.trail, q.Folder, q.File), int64(q.Offset))
	case q.Folder != "":
		a.Names, err = names(filepath.Join(where.trail, q.Folder))
	case q.File != "":
		a.Part, err = part(filepath.Join(where.files, q.File), int64(q.Offset))
	case q.Seen:
		a.Heads, err = trail.ReadSeen(trail.EpochDir(where.trail, q.Epoch), q.From, maxPart)
	default:
		a, err = leaves(where.trail, q)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, trail.ErrNoTrail) {
		return nil, err
	}
	return statement.Marshal(a)
}

// sameRegion reports whether all are of one region: then each may see the others' heads.
func sameRegion(a, b, c spiffeid.ID) bool {
	return a.TrustDomain() == b.TrustDomain() && b.TrustDomain() == c.TrustDomain()
}

// mayAsk reports whether a peer may read an owner's trail here.
func (k *Keeper) mayAsk(peer, owner spiffeid.ID) bool {
	if peer.TrustDomain() != k.cfg.Self.TrustDomain() || owner.TrustDomain() != k.cfg.Self.TrustDomain() {
		return false
	}
	rank := Rank(owner, k.cfg.Members())
	return peer == owner || slices.Contains(rank[:min(len(rank), 2*k.cfg.Copies)], peer)
}

// place is where an owner's trail and files are.
type place struct{ trail, files string }

func (k *Keeper) place(owner spiffeid.ID) place {
	if owner == k.cfg.Self {
		return place{k.cfg.Trail, k.cfg.Files}
	}
	dir := filepath.Join(k.cfg.Dir, folder(owner))
	return place{filepath.Join(dir, "trail"), filepath.Join(dir, filepath.Base(k.cfg.Files))}
}

func leaves(dir string, q question) (a answer, err error) {
	if a.Epochs, err = trail.Epochs(dir); err != nil || len(a.Epochs) == 0 {
		return a, err
	}
	a.Epochs = a.Epochs[max(0, len(a.Epochs)-maxEpochs):]
	if q.Epoch == 0 {
		q.Epoch = a.Epochs[len(a.Epochs)-1]
	}
	if !slices.Contains(a.Epochs, q.Epoch) {
		return a, nil
	}
	dir = trail.EpochDir(dir, q.Epoch)
	a.Head, a.Leaves, err = trail.ReadRaw(dir, q.From, maxPart)
	if errors.Is(err, trail.ErrPruned) {
		a.Hashes, err = trail.ReadHashes(dir, q.From)
	}
	if err != nil {
		return a, err
	}
	if a.Seen, err = trail.ReadWitnessed(dir); bytes.Equal(a.Seen, a.Head) {
		a.Seen = nil
	}
	return a, err
}

// names are the files of a folder that can be asked for.
func names(dir string) (out []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Type().IsRegular() && plainName(e.Name()) && len(out) < maxNames {
			out = append(out, e.Name())
		}
	}
	return out, err
}

func part(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, offset, maxPart))
}
